"""Convolutional networks in prediction on a CPU: convolution, frozen batch norm and activation as one operator.

A network is traced once; the result computes from weights of its own, made anew when those of the network change. The
network itself, its names and what is saved of it stay as they are.
"""

import logging
import math
import sys
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, fx, nn

logger = logging.getLogger(__name__)

IMAGES_AT_ONCE = 1
"""Maps of few images stay in the cache, and their memory is used again for the next ones."""

ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.SiLU: ("swish", []),
}
"""What oneDNN computes while the result of a convolution is in the registers, by PyTorch's names and arguments."""


class FusedNetwork:
    """A network as it computes in prediction.

    Args:
        network: in evaluation mode, of weights in float32 on the CPU.
        function: of the network, which takes images.

    Attributes:
        graph: the traced network; None where nothing can be fused in it.
    """

    def __init__(self, network: nn.Module, *, function: str = "forward") -> None:
        self._watched = [(weakref.ref(tensor), tensor.detach().clone()) for tensor in _tensors(network)]
        with torch.inference_mode(mode=False), torch.no_grad():  # weights that serve in training, too
            self.graph = _fused(network, function) if can_fuse() else None

    def is_of(self, network: nn.Module) -> bool:
        """Whether these are still the weights of the network.

        The numbers are compared: PyTorch's fused AdamW, and whoever writes to `.data`, changes them without raising the
        version of a tensor. That takes a hundredth of the time that the network takes for one image.
        """
        tensors = list(_tensors(network))
        return len(tensors) == len(self._watched) and all(
            reference() is tensor and torch.equal(tensor, before)
            for tensor, (reference, before) in zip(tensors, self._watched, strict=True)
        )

    def __call__(self, images: Float[Tensor, "image 3 height width"]) -> list[Tensor]:
        """The maps that the network makes of the images; in memory their channels come last."""
        assert self.graph is not None
        images = images.contiguous(memory_format=torch.channels_last)
        parts = [self.graph(part) for part in images.split(IMAGES_AT_ONCE)]
        return [torch.cat(levels) for levels in zip(*parts, strict=True)]


class FusedConvolution(nn.Module):
    """A convolution with the batch norm behind it in its weights, and an activation.

    Args:
        conv: of PyTorch, or timm's that pads as TensorFlow does.
        norm: behind it, in evaluation mode.
        activation: behind that.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d, norm: Any, activation: nn.Module) -> None:
        super().__init__()
        self.stride, self.dilation, self.groups = list(conv.stride), list(conv.dilation), conv.groups
        self.kernel_size = conv.kernel_size
        self.padding: list[int] | None = None if type(conv) is not nn.Conv2d else list(conv.padding)  # type: ignore[arg-type]
        weight, bias = _folded(conv, norm)
        if self.padding is None:
            # A row and a column of zeros in front: padding of (p, p + 1), which no operator knows, becomes p + 1 on all
            # sides, and the maps need not be copied into larger ones.
            weight = F.pad(weight, (1, 0, 1, 0))
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.activation, self.arguments = ACTIVATIONS.get(type(activation), ("none", []))
        self.rest = nn.Identity() if type(activation) in ACTIVATIONS else activation

    def forward(self, x: Float[Tensor, "image _ _ _"]) -> Float[Tensor, "image _ _ _"]:
        """What convolution, norm and activation make of a map."""
        weight, padding = self.weight, self.padding
        if padding is None:
            x, weight, padding = self._padded(x)
        y = torch.ops.mkldnn._convolution_pointwise(
            x, weight, self.bias, padding, self.stride, self.dilation, self.groups, self.activation, self.arguments, ""
        )
        result: Tensor = self.rest(y)
        return result

    def _padded(self, x: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """The map, the weights and the padding that together pad as TensorFlow does: most of it behind."""
        totals = [
            max((math.ceil(side / stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
            for side, stride, kernel, dilation in zip(
                x.shape[-2:], self.stride, self.kernel_size, self.dilation, strict=True
            )
        ]
        if self.dilation == [1, 1] and all(total % 2 for total in totals):
            return x, self.weight, [total // 2 + 1 for total in totals]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
        return F.pad(x, (left, right, top, bottom)), self.weight[..., 1:, 1:], [0, 0]


def can_fuse() -> bool:
    """Whether this PyTorch has the operator that its compiler uses for convolutions on CPUs."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def may_be_fused(network: nn.Module, images: Tensor) -> bool:
    """Whether this call of the network may be replaced by one of its `FusedNetwork`."""
    return (
        not needs_gradients(network, images)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and images.dtype == torch.float32
        and images.device.type == "cpu"
        and not any(module.training for module in network.modules())
        and all(
            tensor.dtype == torch.float32 and tensor.device.type == "cpu"
            for tensor in _tensors(network)
            if tensor.is_floating_point()
        )
    )


def needs_gradients(network: nn.Module, images: Tensor) -> bool:
    """Whether a backward pass will go through the network; not with one that is frozen."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (images, *network.parameters()))


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


class _Tracer(fx.Tracer):
    """Follows a network down to its convolutions and norms.

    Args:
        function: of the network, which is traced.
    """

    def __init__(self, function: str) -> None:
        super().__init__()
        self.traced_func_name = function

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module stays what it is; timm's norms have activations below them."""
        is_leaf = isinstance(m, (nn.Conv2d, nn.BatchNorm2d)) or _is_norm(m)
        return is_leaf or super().is_leaf_module(m, module_qualified_name)


def _fused(network: nn.Module, function: str) -> fx.GraphModule | None:
    """The network with fused convolutions; None where it has none, or decides by numbers what it computes."""
    if not any(_is_norm(module) for module in network.modules()):
        return None
    try:
        graph = _Tracer(function).trace(network)
    except fx.proxy.TraceError as error:
        logger.info("%s is not fused: %s", type(network).__name__, error)
        return None
    modules = dict(network.named_modules())
    result = fx.GraphModule(network, graph)
    for node in list(graph.nodes):
        conv, norm = _called(node.args[0] if node.args else None, modules), _called(node, modules)
        if norm is None or conv is None or not _is_norm(norm) or not _is_conv(conv) or len(node.args[0].users) > 1:
            continue
        name, last, activation = f"fused_{node.name}", node, getattr(norm, "act", nn.Identity())
        follower = next(iter(node.users))
        if len(node.users) == 1 and type(activation) is nn.Identity and type(_called(follower, modules)) in ACTIVATIONS:
            last, activation = follower, modules[follower.target]
        result.add_submodule(name, FusedConvolution(conv, norm, activation))
        with graph.inserting_after(last):
            last.replace_all_uses_with(graph.call_module(name, node.args[0].args))
        for replaced in dict.fromkeys((last, node, node.args[0])):
            graph.erase_node(replaced)
    result.delete_all_unused_submodules()
    result.recompile()
    return result.eval()


def _called(node: Any, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    """The module that a step of a traced network calls."""
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return modules.get(node.target) if is_call else None


def _is_conv(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution with zeros around its input, of PyTorch or, padded as by TensorFlow, of timm."""
    if type(module) not in (nn.Conv2d, *_if_imported("timm.layers", "Conv2dSame")):
        return False
    assert isinstance(module, nn.Conv2d)
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _is_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm with fixed numbers, of PyTorch, torchvision, or with an activation of timm."""
    others = (*_if_imported("timm.layers", "BatchNormAct2d"), *_if_imported("torchvision.ops", "FrozenBatchNorm2d"))
    is_known = type(module) in (nn.BatchNorm2d, *others)
    return is_known and module.running_mean is not None and type(getattr(module, "drop", _NOTHING)) is nn.Identity


_NOTHING = nn.Identity()


def _if_imported(library: str, name: str) -> tuple[type[nn.Module], ...]:
    """A class of a library that something has imported: without that, no module is of the class."""
    return (getattr(sys.modules[library], name),) if library in sys.modules else ()


def _folded(conv: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """Weights and biases with which a convolution alone computes what it and the norm behind it do."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean * scale if norm.bias is None else norm.bias.double() - mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    return (conv.weight.double() * scale[:, None, None, None]).float(), shift.float()

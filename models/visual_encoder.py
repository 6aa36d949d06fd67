"""What the model asks of a visual encoder."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from models.fused_network import FusedNetwork, may_be_fused
from structures.clips import IMAGENET, Normalisation


class VisualEncoder(nn.Module):
    """Frames to maps of strides 4, 8, 16 and 32.

    Attributes:
        channels: of the four maps.
        normalisation: of the pixels that it was trained on.
        takes_bytes: whether frames without padding may come as RGB bytes. They are then normalised one after the other,
            and a long clip is not held as floats.
    """

    channels: tuple[int, ...]
    normalisation: Normalisation = IMAGENET
    takes_bytes = False
    _is_frozen = False
    _fused: FusedNetwork | None = None

    @property
    def pretrained(self) -> nn.Module:
        """The part that pretrained weights fill; all of it, unless the encoder adds layers of its own."""
        return self

    def freeze(self) -> None:
        """The pretrained part is never trained: no gradients, and evaluation mode from now on, also in training."""
        self._is_frozen = True
        self.pretrained.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "VisualEncoder":
        """As usual, except that a frozen part stays in evaluation mode, so that its batch norms do not move."""
        super().train(mode)
        if self._is_frozen:
            for module in self.pretrained.modules():
                module.training = False
        return self

    def _maps(
        self, network: nn.Module, images: Float[Tensor, "image 3 height width"], *, function: str = "forward"
    ) -> Sequence[Tensor]:
        """What a function of the network makes of images; on a CPU by fused convolutions unless they are trained."""
        if may_be_fused(network, images):
            if self._fused is None or not self._fused.is_of(network):
                self._fused = FusedNetwork(network, function=function)
            if self._fused.graph is not None:
                return self._fused(images)
        maps: Sequence[Tensor] = getattr(network, function)(images)
        return maps

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "VisualEncoder":
        """As usual: moves the weights, or changes their type. Those of before are not kept."""
        self._fused = None
        super()._apply(fn, recurse)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the encoder makes its own fused network when it is asked for maps."""
        return {name: value for name, value in self.__dict__.items() if name != "_fused"}

    @abstractmethod
    def forward(
        self, frames: Float[Tensor, "batch time 3 height width"]
    ) -> tuple[Float[Tensor, "batch time _ _ _"], ...]:
        """Maps of strides 4, 8, 16 and 32, sizes rounded up."""

    @abstractmethod
    def load_pretrained(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a file, strictly.

        Raises:
            ValueError: if a weight is missing, unknown or of another shape.
        """

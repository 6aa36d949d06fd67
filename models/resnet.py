"""ResNet-50 on independent frames."""

from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torchvision.models import resnet50
from torchvision.ops import FrozenBatchNorm2d

from models.visual_encoder import VisualEncoder
from structures.checkpoint_file import load_strictly


class ResNet50(VisualEncoder):
    """The stages of a ResNet-50 with frozen batch norms; stem and first stage are frozen as in DETR.

    Attributes:
        channels: of the maps of strides 4, 8, 16 and 32.
    """

    channels = (256, 512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        network = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
        self.conv1, self.bn1, self.relu, self.maxpool = network.conv1, network.bn1, network.relu, network.maxpool
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        for frozen in (self.conv1, self.layer1):
            frozen.requires_grad_(False)

    def forward(
        self, frames: Float[Tensor, "batch time 3 height width"]
    ) -> tuple[Float[Tensor, "batch time _ _ _"], ...]:
        """Maps of strides 4, 8, 16 and 32."""
        batch = frames.shape[0]
        images = rearrange(frames, "b t c h w -> (b t) c h w")
        maps = self._maps(self, images, function="_stages")
        return tuple(rearrange(level, "(b t) c h w -> b t c h w", b=batch) for level in maps)

    def _stages(self, images: Any) -> tuple[Any, ...]:
        """Maps of independent images; also called with what stands for them while the network is traced."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return tuple(maps)

    def load_pretrained(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a torchvision ResNet-50 file, strictly; its classifier is left out.

        Raises:
            ValueError: if a weight is missing, unknown or of another shape.
        """
        kept = {
            name: tensor
            for name, tensor in state.items()
            if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
        }
        load_strictly(self, kept, source="torchvision ResNet-50 file")

"""What the model asks of a visual encoder."""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from structures.clips import IMAGENET, Normalisation


class VisualEncoder(nn.Module):
    """Frames to maps of strides 4, 8, 16 and 32.

    Attributes:
        channels: of the four maps.
        normalisation: of the pixels that it was trained on.
    """

    channels: tuple[int, ...]
    normalisation: Normalisation = IMAGENET
    _is_frozen = False

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

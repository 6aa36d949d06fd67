"""The three parts of an exported model: what sees the frames, what reads the sentences, and the rest.

All sentences about a video share the first, and all videos that a sentence is asked about share the second.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from models.outputs import TextFeatures, Tokens, VideoFeatures
from models.position_encoding import pixel_positions, word_positions
from models.soc import SOC
from structures.clips import PaddedClips, normalise

Maps = tuple[
    Float[Tensor, "time channel _ _"],
    Float[Tensor, "time dim _ _"],
    Float[Tensor, "time dim _ _"],
    Float[Tensor, "time dim _ _"],
    Float[Tensor, "time dim _ _"],
]
"""Of strides 4 (raw) and 8 to 64 (projected)."""


class VideoPart(nn.Module):
    """Frames to maps; pixels are normalised inside.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: SOC) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: UInt8[Tensor, "time height width 3"]) -> Maps:
        """The maps of one clip without padding.

        Args:
            frames: RGB in [0, 255], already of the size that the model sees.
        """
        time, height, width, _ = frames.shape
        pixels = normalise(rearrange(frames, "t h w c -> 1 t c h w"), self.model.normalisation)
        is_padding = torch.zeros(1, time, height, width, dtype=torch.bool)
        video = self.model.encode_video(PaddedClips(pixels, is_padding, ((height, width),)))
        stride4, *levels = (level[0] for level in (video.stride4, *video.levels))
        return (stride4, levels[0], levels[1], levels[2], levels[3])


class TextPart(nn.Module):
    """Token ids to words and sentences.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: SOC) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: Int[Tensor, "sentence word"], attention_mask: Int[Tensor, "sentence word"]
    ) -> tuple[Float[Tensor, "sentence word dim"], Float[Tensor, "sentence dim"]]:
        """Features of every token, and of every sentence.

        Args:
            ids: from the tokenizer.
            attention_mask: 1 at tokens, 0 at padding, as tokenizers give it.
        """
        text = self.model.encode_text(Tokens(ids, attention_mask != 1))
        return text.words, text.sentence


class SegmentPart(nn.Module):
    """Maps and words to the objects that the sentences mean.

    Args:
        model: in evaluation mode.
        maps: of a clip of the size that is exported; only their shapes are looked at.
        size_px: (height, width) of the frames.
    """

    def __init__(self, model: SOC, maps: Maps, *, size_px: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.size_px = model, size_px
        # Constants of the size: no code has to compute sines again for each clip.
        for number, level in enumerate(maps[1:]):
            is_padding = torch.zeros(1, 1, *level.shape[2:], dtype=torch.bool)
            self.register_buffer(f"is_padding{number}", is_padding)
            self.register_buffer(f"positions{number}", pixel_positions(is_padding, level.shape[1], level.dtype))

    def forward(
        self,
        stride4: Float[Tensor, "time channel _ _"],
        stride8: Float[Tensor, "time dim _ _"],
        stride16: Float[Tensor, "time dim _ _"],
        stride32: Float[Tensor, "time dim _ _"],
        stride64: Float[Tensor, "time dim _ _"],
        words: Float[Tensor, "sentence word dim"],
        attention_mask: Int[Tensor, "sentence word"],
        sentence: Float[Tensor, "sentence dim"],
    ) -> tuple[
        Float[Tensor, "sentence time query num_classes"],
        Float[Tensor, "sentence time query 4"],
        Float[Tensor, "sentence time query _ _"],
        Float[Tensor, "sentence query dim"],
    ]:
        """All that the model says about one clip: class logits, boxes, mask logits and embeddings of every query.

        Args:
            stride4: from `VideoPart`, and so the next four.
            stride8: see above.
            stride16: see above.
            stride32: see above.
            stride64: see above.
            words: from `TextPart`.
            attention_mask: that the words came from.
            sentence: from `TextPart`.
        """
        num_sentences, num_frames = words.shape[0], stride4.shape[0]
        is_padding = attention_mask != 1
        levels = (stride8, stride16, stride32, stride64)
        video = VideoFeatures(
            stride4=stride4[None].expand(num_sentences, -1, -1, -1, -1),
            levels=tuple(level[None].expand(num_sentences, -1, -1, -1, -1) for level in levels),
            positions=tuple(
                self._constant(f"positions{number}").expand(num_sentences, num_frames, -1, -1, -1)
                for number in range(len(levels))
            ),
            is_padding=tuple(
                self._constant(f"is_padding{number}").expand(num_sentences, num_frames, -1, -1)
                for number in range(len(levels))
            ),
            sizes_px=(self.size_px,),  # one for all sentences
        )
        text = TextFeatures(words, word_positions(is_padding, words.shape[-1], words.dtype), is_padding, sentence)
        layer = self.model.segment(video, text).final
        return layer.class_logits, layer.boxes_cxcywh_norm, layer.mask_logits, layer.cluster

    def _constant(self, name: str) -> Float[Tensor, "..."] | Bool[Tensor, "..."]:
        return self.get_buffer(name)

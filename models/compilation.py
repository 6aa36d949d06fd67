"""Parts of the model as kernels that PyTorch compiles: the blocks of the visual encoder and of the transformer."""

import torch

from models.deformable_transformer import DecoderLayer, EncoderLayer
from models.soc import SOC
from models.video_swin import VideoSwin, VideoSwinBlock

BLOCKS = (VideoSwinBlock, EncoderLayer, DecoderLayer)

MOST_VARIANTS = 64
"""Of one kind of block: per width, shift, padding, precision, with gradients and without. What comes beyond is computed
as without compilation. PyTorch's own limit is 8."""


def compile_blocks(model: SOC) -> None:
    """Compiles the blocks in place, each when it is first called; a visual encoder of another kind as a whole.

    Names of parameters and results stay what they are. A block is compiled for the first size that it meets, and
    then a few times more: for other sizes whose windows are padded, for those that fit, and where a group of windows
    is a single one. Between blocks little is left to compile: cutting into patches, merging them, and the places of
    tokens in windows, which are kept per size.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_VARIANTS)
    if not isinstance(model.visual_encoder, VideoSwin):
        model.visual_encoder.compile()
    for part in (model.visual_encoder, model.transformer):
        for block in part.modules():
            if isinstance(block, BLOCKS):
                block.compile()  # not with fullgraph=True, by which one variant too many would end the run

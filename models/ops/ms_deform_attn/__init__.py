"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159)."""

from models.ops.ms_deform_attn.backends import set_backend, use_backend
from models.ops.ms_deform_attn.functional import ms_deform_attn
from models.ops.ms_deform_attn.module import MSDeformAttn

__all__ = ["MSDeformAttn", "ms_deform_attn", "set_backend", "use_backend"]

"""Compiled kernels of multi-scale deformable attention; `models.ops.ms_deform_attn` finds and loads them."""

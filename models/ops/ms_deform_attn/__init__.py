"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159): `functional.py` and `module.py`."""

"""Files in and out: whole or absent; images, masks, videos, overlays. NumPy arrays, no tensors of a model."""

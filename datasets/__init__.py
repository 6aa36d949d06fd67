"""Files on disk to typed samples and batches."""

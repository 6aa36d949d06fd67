"""Running the model on videos of one's own: where frames come from, and answers window by window."""

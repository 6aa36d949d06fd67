"""From records of videos to batches: windows, resizing, flips, sentences, targets, collation."""

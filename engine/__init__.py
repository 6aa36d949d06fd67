"""The machinery round a loop: processes, checkpoints, optimiser, log, progress. Knows nothing of models or data."""

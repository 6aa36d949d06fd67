"""The types that are passed between data, model, criterion and metrics. Imports nothing of the project."""

"""The typed things that travel between data, model, criterion and metrics. Imports nothing of the project."""

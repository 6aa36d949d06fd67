"""How benchmarks are run: protocols, submissions, ground truth, reports."""

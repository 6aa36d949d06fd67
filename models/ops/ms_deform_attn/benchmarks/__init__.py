"""Measurements of speed of the operator; run as `python -m models.ops.ms_deform_attn.benchmarks.NAME`."""

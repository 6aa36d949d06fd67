"""Runs the CUDA kernels on a CPU, lane by lane, from their own source: how they are checked where there is no GPU."""

"""Numbers recorded from the published SOC, and the code that recomputes them with our modules."""

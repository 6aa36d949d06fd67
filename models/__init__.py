"""SOC: the encoders, the fusion, the transformer, the object cluster, the heads, and what trains them."""

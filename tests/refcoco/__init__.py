"""RefCOCO, RefCOCO+ and RefCOCOg on tiny folders."""

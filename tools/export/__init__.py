"""A saved model as ONNX or OpenVINO files, checked against the model itself: `python -m tools.export`."""

"""What runs a batch: the protocol and ONNX Runtime."""

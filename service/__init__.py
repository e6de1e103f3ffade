"""The convserve server: CNN classifiers over gRPC under ONNX Runtime. Never imports torch."""

__version__ = "0.1.0"

"""What runs a batch: the protocol and ONNX Runtime."""

import os

# From 1.29 on, ONNX Runtime's wheels send usage data to their maker unless told not to before they are loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

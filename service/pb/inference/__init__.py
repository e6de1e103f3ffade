"""Stubs of the Open Inference Protocol v2 with the extensions of Triton."""

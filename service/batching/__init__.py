"""Dynamic batching: pure policy, queue and assembly, and a thin shell of threads around them."""

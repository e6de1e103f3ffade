"""Dynamic batching: a pure policy, queue and assembly, with a thin shell of threads around them."""

"""Stubs of the protocols that are our own."""

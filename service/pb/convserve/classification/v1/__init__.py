"""Stubs of version 1 of the classification protocol."""

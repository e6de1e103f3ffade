"""Stubs of the classification protocol, by version."""

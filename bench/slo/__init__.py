"""Finds the greatest rate within an objective, and the goodput past it, by runs of ``bench.load``."""

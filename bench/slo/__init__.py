"""The greatest rate within the objective, and goodput past it: what a server is worth, by runs of ``bench.load``."""

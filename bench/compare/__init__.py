"""Peers side by side: interleaved rounds, medians with spread, results that can be added to."""

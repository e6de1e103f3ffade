"""Types of numbers on the command line. argparse prints the message of the error that they raise."""

from __future__ import annotations

import argparse
import math


def natural(text: str) -> int:
    """Read an integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """Read an integer of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def naturals(text: str) -> list[int]:
    """Read different integers of at least 0, separated by commas."""
    numbers = [natural(part) for part in text.split(",")]
    if len(set(numbers)) != len(numbers):
        raise argparse.ArgumentTypeError(f"expected different numbers, got {text!r}")
    return numbers


def tolerance(text: str) -> float:
    """Read a difference of probabilities: greater than 0, at most 0.02, which int8 may need."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 0.02:
        raise argparse.ArgumentTypeError(f"expected a number greater than 0, at most 0.02, got {text!r}")
    return number


def limit(text: str) -> float:
    """Read a finite number of at least 0; with ``nan``, every loss would be accepted."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number of at least 0, got {text!r}")
    return number

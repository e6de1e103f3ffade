"""Latencies in the layout of HdrHistogram: about 0.1 % apart from a microsecond to an hour.

Bucket b holds the values of its doubling in 1,024 steps (2,048 for the first), so that three digits are kept at any
size. Tables of counts add up: histograms of several processes merge without loss. ``encoded`` is the V2 text form,
which every HdrHistogram library and plotter reads. Layout and encoding: Gil Tene, http://hdrhistogram.org, and
``encodeIntoCompressedByteBuffer`` of its Java library.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

_HALF_BITS = 10
_HALF = 1 << _HALF_BITS  # steps of a doubling; 2,048 steps from 0 tell three digits apart
_DIGITS = 3
_HIGHEST = 3_600_000_000  # microseconds
_SIZE = (_HIGHEST.bit_length() - _HALF_BITS) * _HALF + _HALF
_COOKIE, _COMPRESSED_COOKIE = 0x1C849303 | 0x10, 0x1C849304 | 0x10
_HEADER = ">iiiiqqd"


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often each latency came; immutable.

    Attributes:
        counts: int64, one a step.
    """

    counts: np.ndarray

    @classmethod
    def of(cls, seconds: np.ndarray) -> Histogram:
        """Count latencies; one below 0 counts as 0, one above an hour as an hour."""
        micros = np.clip(np.rint(np.asarray(seconds, dtype=np.float64) * 1e6), 0, _HIGHEST).astype(np.int64)
        return cls(np.bincount(_index(micros), minlength=_SIZE).astype(np.int64))

    def __add__(self, other: Histogram) -> Histogram:
        """Merge two."""
        return Histogram(self.counts + other.counts)

    @property
    def total(self) -> int:
        """How many latencies were counted."""
        return int(self.counts.sum())

    def percentile(self, percent: float) -> float:
        """Return the latency, in seconds, that this percentage does not exceed; NaN if nothing was counted."""
        total = self.total
        if not total:
            return math.nan
        rank = max(1, math.ceil(percent / 100 * total - 1e-9))
        return _greatest(int(np.searchsorted(np.cumsum(self.counts), rank))) / 1e6

    def percentiles(self) -> dict[str, float | None]:
        """Return the usual percentiles by name, in seconds; None if nothing was counted."""
        names = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
        return {name: self.percentile(percent) if self.total else None for name, percent in names.items()}

    def encoded(self) -> str:
        """Return HdrHistogram's compressed V2 form in base64; values are microseconds."""
        last = int(np.flatnonzero(self.counts)[-1]) + 1 if self.total else 0
        payload = bytearray()
        zeros = 0
        for count in self.counts[:last].tolist():
            if not count:
                zeros += 1
                continue
            if zeros:
                payload += _zigzag(-zeros)
                zeros = 0
            payload += _zigzag(count)
        plain = struct.pack(_HEADER, _COOKIE, len(payload), 0, _DIGITS, 1, _HIGHEST, 1.0) + payload
        packed = zlib.compress(plain, 9)
        return base64.b64encode(struct.pack(">ii", _COMPRESSED_COOKIE, len(packed)) + packed).decode()


def _index(values: np.ndarray) -> np.ndarray:
    bits = np.frexp((values | (2 * _HALF - 1)).astype(np.float64))[1]
    bucket = bits.astype(np.int64) - (_HALF_BITS + 1)
    index: np.ndarray = bucket * _HALF + (values >> bucket)
    return index


def _greatest(index: int) -> int:
    """Return the greatest value of a step."""
    bucket = max(0, index // _HALF - 1)
    return ((index - bucket * _HALF + 1) << bucket) - 1


def _zigzag(value: int) -> bytes:
    """Write a number as ZigZag LEB128: seven bits a byte, the sign in the lowest bit."""
    rest = (value << 1) if value >= 0 else ((-value) << 1) - 1
    out = bytearray()
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)

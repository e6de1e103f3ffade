"""Reads the text form of histograms, as HdrHistogram's libraries do."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from bench.load.histogram import Histogram

HEADER = ">iiiiqqd"  # cookie, bytes of counts, offset, digits, lowest, highest, ratio


def decoded(text: str) -> Histogram:
    """Read a compressed V2 histogram of 3 digits from a microsecond to an hour."""
    packed = base64.b64decode(text, validate=True)
    assert struct.unpack_from(">ii", packed) == (0x1C849314, len(packed) - 8)
    plain = zlib.decompress(packed[8:])
    cookie, size, _, digits, lowest, highest, _ = struct.unpack_from(HEADER, plain)
    payload = plain[struct.calcsize(HEADER) :]
    assert (cookie, size, digits, lowest, highest) == (0x1C849313, len(payload), 3, 1, 3_600_000_000)
    counts = np.zeros_like(Histogram.of(np.array([])).counts)
    place, value, shift = 0, 0, 0
    for byte in payload:  # ZigZag LEB128; below 0: so many steps without a count
        value, shift = value | (byte & 0x7F) << shift, shift + 7
        if byte & 0x80:
            continue
        number = (value >> 1) ^ -(value & 1)
        if number > 0:
            counts[place] = number
        place += max(1, -number)
        value, shift = 0, 0
    return Histogram(counts)

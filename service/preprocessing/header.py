"""Reads a picture's size, and the mode of a plain JPEG, from its first bytes without opening it.

Opening a picture costs Pillow as much as decoding a small one. Anything unusual is left to
Pillow: None says nothing against the picture.
"""

from __future__ import annotations

from typing import NamedTuple

_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_JPEG = b"\xff\xd8\xff"
# ITU-T T.81, table B.1. Frames that libjpeg decodes with Huffman codes, sequential and progressive.
_FRAMES = (0xC0, 0xC1, 0xC2)
_SCAN = 0xDA
# Tables, JFIF's and Adobe's segments and comments, which turn no picture. Exif lies in 0xE1.
_SILENT = (0xC4, 0xDB, 0xDD, 0xE0, 0xEE, 0xFE)
_MODES = {1: "L", 3: "RGB"}


class Header(NamedTuple):
    """Size of a picture.

    Attributes:
        width: In pixels.
        height: In pixels.
        jpeg_mode: Pillow's mode of an 8-bit JPEG without metadata that could rotate it; empty for others.
    """

    width: int
    height: int
    jpeg_mode: str = ""

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


def read_header(data: bytes | memoryview) -> Header | None:
    """Return what a PNG's or a plain JPEG's header says; None for anything else."""
    if data[:3] == _JPEG:
        return _jpeg(data)
    if data[:16] == _PNG and len(data) >= 24:
        return Header(int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
    return None


def _jpeg(data: bytes | memoryview) -> Header | None:
    """Read the segments up to the first scan. Strict, since libjpeg must find the same frame."""
    header = None
    position, last = 2, len(data) - 9
    while position < last:
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == _SCAN:
            return header
        if marker in _FRAMES:
            mode = _MODES.get(data[position + 9])
            if header is not None or mode is None or data[position + 4] != 8:
                return None
            height = data[position + 5] << 8 | data[position + 6]
            header = Header(data[position + 7] << 8 | data[position + 8], height, mode)
        elif marker not in _SILENT:
            return None
        position += 2 + (data[position + 2] << 8 | data[position + 3])
    return None

"""Pictures that cost far more than their size in pixels tells: read from the bytes, before anything is decoded.

A progressive JPEG may go over all its pixels again every 75 bytes, and the tiles of a compressed TIFF, each decoded
whole, may be thousands of times larger than the picture.
"""

from __future__ import annotations

import re

from service.errors import InvalidInput

# libtiff's own bound on a JPEG within a TIFF (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER); encoders make a dozen.
_MAX_SCANS = 100
_SCAN = b"\xff\xda"
# ITU-T T.81, B.1.1.2: fill bytes and a marker; 00 and the restarts stand within a scan.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_JPEG, _END = b"\xff\xd8", 0xD9
_TIFFS = (b"II*\0", b"MM\0*")
_BIG_TIFF, _BIG_ENDIAN_BIG_TIFF = b"II+\0", b"MM\0+"
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF 6.0, section 15
_SIZES = {3: 2, 4: 4, 16: 8}  # SHORT, LONG and BigTIFF's LONG8, in bytes


def refuse_bombs(data: bytes | memoryview, max_pixels: int) -> None:
    """Refuse a picture whose decoding would cost far more than its pixels do.

    Args:
        data: Of any format, perhaps damaged.
        max_pixels: Most pixels of a picture, and so of a tile.

    Raises:
        InvalidInput: Names what there is too much of (INVALID_ARGUMENT).
    """
    if data[:2] == _JPEG:
        # Counting is quick, and finds at least as many as there are.
        if bytes(data).count(_SCAN) > _MAX_SCANS and _has_more_scans(data, _MAX_SCANS):
            raise InvalidInput(f"picture is a JPEG of more than {_MAX_SCANS} scans")
    elif data[:2] in (b"II", b"MM"):
        width, length = _tile(data)
        if width * length > max_pixels:
            raise InvalidInput(
                f"picture has tiles of {width} x {length} = {width * length} pixels, expected at most {max_pixels}"
            )


def _has_more_scans(data: bytes | memoryview, most: int) -> bool:
    """Tell whether a JPEG has more scans than so many, as libjpeg reads it: what follows its end does not count."""
    position, scans = len(_JPEG), 0
    while (found := _MARKER.search(data, position)) is not None:
        kind, position = found[1][0], found.end()
        if kind == _END:
            break
        scans += kind == _SCAN[1]
        if scans > most:
            return True
        position += int.from_bytes(data[position : position + 2], "big")
    return False


def _tile(data: bytes | memoryview) -> tuple[int, int]:
    """Return width and length of a TIFF's tiles, by its first directory; zeros for strips and for what is no TIFF.

    Raises:
        InvalidInput: They are written in a way that Pillow and libtiff may read differently.
    """
    if data[:4] == _BIG_ENDIAN_BIG_TIFF:  # whose directory Pillow looks for where libtiff does not
        raise InvalidInput("picture is a big-endian BigTIFF, which is not read")
    big = data[:4] == _BIG_TIFF
    if not big and data[:4] not in _TIFFS:
        return 0, 0

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little" if data[:2] == b"II" else "big")

    directory = number(8, 8) if big else number(4, 4)
    head, entry, inline = (8, 20, 8) if big else (2, 12, 4)
    first = directory + head
    count = min(number(directory, head), max(0, len(data) - first) // entry)
    sides = {_TILE_WIDTH: 0, _TILE_LENGTH: 0}
    for at in range(first, first + count * entry, entry):
        tag = number(at, 2)
        if tag not in sides:
            continue
        size = _SIZES.get(number(at + 2, 2), inline + 1)
        if size > inline or number(at + 4, inline) != 1 or sides[tag]:
            raise InvalidInput("picture is a TIFF whose tiles have no plain size")
        sides[tag] = number(at + 4 + inline, size)
    return sides[_TILE_WIDTH], sides[_TILE_LENGTH]

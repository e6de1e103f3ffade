"""Finds pictures that cost far more than their size in pixels suggests, before anything is decoded.

A progressive JPEG may go over all its pixels again every few bytes. The tiles of a compressed TIFF, each decoded whole,
may be thousands of times larger than the picture. Some of Pillow's work on opening a picture grows with the square of
its bytes, or with sizes that only the inside of the picture states.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from service.errors import InvalidInput

# libtiff's own bound on a JPEG within a TIFF (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER); encoders make a dozen.
_MAX_SCANS = 100
_SCAN = b"\xff\xda"
# ITU-T T.81, B.1.1.2: fill bytes and a marker; 00 and the restarts stand within a scan. No length follows TEM (01),
# which libjpeg passes over, nor SOI (D8), at which it gives up.
_MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")
_JPEG, _END = b"\xff\xd8", 0xD9
# Pillow copies all Exif so far for each segment of it, and keeps a record of each segment of any kind. A profile of
# colours has at most 255.
_MAX_EXIFS, _MAX_SEGMENTS = 100, 4096
# What lies between segments Pillow looks through byte by byte, in 0.25 us each: fill bytes, of which there may be any
# number, and in pictures of some phones a segment whose marker was overwritten.
_MAX_BETWEEN = 1 << 17
_EXIF, _EXIF_MARKER = b"Exif\0\0", 0xE1
_TIFFS = (b"II*\0", b"MM\0*")
_BIG_TIFF, _BIG_ENDIAN_BIG_TIFF = b"II+\0", b"MM\0+"
# TIFF 6.0, sections 8 and 15.
_WIDTH, _LENGTH, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 278, 322, 323
_STRIPS, _TILES = 273, 324
_SIZES = {3: 2, 4: 4, 16: 8}  # SHORT, LONG and BigTIFF's LONG8, in bytes
# Of one picture: Pillow takes up to 0.02 ms for each. Of tiles of 64 x 64 that is 268 million pixels.
_MAX_PARTS = 65536
# A palette of 16 bits has 196,608; each becomes an object. Texts and profiles of colours are bytes, and stay such.
_MAX_VALUES, _BYTES = 262_144, (1, 2, 6, 7)
_PLANES = 8  # channels may lie apart, each in strips of its own, the last of which may not be full
# PNG, third edition, 11.3: chunks that Pillow unpacks, to a megabyte each, from a thousandth of that.
_PNG = b"\x89PNG"
_MAX_PACKED = 100
_PACKED = (b"iCCP", b"zTXt", b"iTXt")
_GIF = b"GIF8"
# Run-length codes, which Pillow decodes in Python, a hundred times as slowly as anything else.
_BMP, _RUN_LENGTHS = b"BM", (1, 2)
_RUN_LENGTH_SHARE = 8


def refuse_bombs(data: bytes | memoryview, max_pixels: int) -> None:
    """Refuse a picture whose opening or decoding would cost far more than its pixels do.

    Args:
        data: A picture of any format, perhaps damaged.
        max_pixels: Most pixels of a picture, and so of a tile.

    Raises:
        InvalidInput: There is too much of something, which the message names (INVALID_ARGUMENT).
    """
    kind = bytes(data[:4])
    if kind[:2] == _JPEG:
        _refuse_jpeg(bytes(data))
    elif kind[:2] in (b"II", b"MM"):
        _refuse_tiff(data, max_pixels)
    elif kind == _PNG:
        _refuse_png(bytes(data))
    elif kind == _GIF:
        _refuse_pixels(*_first_frame(data), max_pixels)
    elif kind[:2] == _BMP and int.from_bytes(data[30:34], "little") in _RUN_LENGTHS:
        width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
        _refuse_pixels(abs(width), abs(height), max_pixels // _RUN_LENGTH_SHARE, " in run lengths")


def may_have_many_scans(data: bytes | memoryview) -> bool:
    """Return whether a JPEG may have more scans than are allowed. Quick; False is certain."""
    return bytes(data).count(_SCAN) > _MAX_SCANS


def _refuse_pixels(width: int, height: int, most: int, how: str = "") -> None:
    if width * height > most:
        raise InvalidInput(f"picture has {width} x {height} = {width * height} pixels{how}, expected at most {most}")


def _refuse_jpeg(data: bytes) -> None:
    if may_have_many_scans(data) and _has_more_scans(data, _MAX_SCANS):
        raise InvalidInput(f"picture is a JPEG of more than {_MAX_SCANS} scans")
    exifs, between, last = 0, 0, len(_JPEG)
    for number, (kind, start, end) in enumerate(_segments(data)):
        exifs += kind == _EXIF_MARKER and data.startswith(_EXIF, start + 2)
        between += start - len(_SCAN) - last
        if exifs > _MAX_EXIFS or number >= _MAX_SEGMENTS or between > _MAX_BETWEEN:
            raise InvalidInput(
                f"picture is a JPEG of more than {_MAX_SEGMENTS} segments before its first scan, "
                f"{_MAX_EXIFS} of Exif, or {_MAX_BETWEEN} bytes between them"
            )
        if kind == _SCAN[1]:
            break
        last = end


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield a JPEG's segments: the marker, where its length stands, and where the segment ends."""
    position = len(_JPEG)
    while (found := _MARKER.search(data, position)) is not None:
        start = found.end()
        position = start + int.from_bytes(data[start : start + 2], "big")
        yield found[1][0], start, position


def _has_more_scans(data: bytes, most: int) -> bool:
    """Return whether a JPEG has more than ``most`` scans as libjpeg reads it: what follows its end does not count."""
    scans = 0
    for kind, _, _ in _segments(data):
        if kind == _END:
            break
        scans += kind == _SCAN[1]
        if scans > most:
            return True
    return False


def _refuse_png(data: bytes) -> None:
    # Counting is quick, and no picture has these words by chance so often.
    if sum(map(data.count, _PACKED)) > _MAX_PACKED:
        raise InvalidInput(f"picture is a PNG of more than {_MAX_PACKED} compressed texts or profiles")
    position, chunks = 8, 0
    while position < len(data) and data[position + 4 : position + 8] != b"IEND":
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        chunks += 1
        if chunks > _MAX_PARTS:
            raise InvalidInput(f"picture is a PNG of more than {_MAX_PARTS} chunks")


def _first_frame(data: bytes | memoryview) -> tuple[int, int]:
    """Return the width and height that Pillow gives a GIF by its first frame, which may be larger than the screen.

    Pillow allocates what will replace the frame as soon as it opens the file. Zeros if there is no frame.

    Raises:
        InvalidInput: Too much stands before the frame.
    """
    parts = 0

    def blocks_end(position: int) -> int:
        """Return where a run of blocks ends: after the first empty one."""
        nonlocal parts
        while position < len(data) and data[position] and parts <= _MAX_PARTS:
            position += data[position] + 1
            parts += 1
        return position + 1

    def number(at: int) -> int:
        return int.from_bytes(data[at : at + 2], "little")

    flags = data[10] if len(data) > 10 else 0
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while position < len(data):
        parts += 1
        if parts > _MAX_PARTS:
            raise InvalidInput(f"picture is a GIF of more than {_MAX_PARTS} blocks before its first frame")
        kind = data[position]
        if kind == ord(","):
            left, top, width, height = (number(position + at) for at in (1, 3, 5, 7))
            return max(number(6), left + width), max(number(8), top + height)
        if kind == ord(";"):
            break
        position += 1
        if kind == ord("!"):
            is_comment = data[position : position + 1] == b"\xfe"
            # As Pillow does: in other extensions the first block may be empty, and more may follow.
            skips_one = not is_comment and data[position + 1 : position + 2] == b"\0"
            position = blocks_end(position + 1 + skips_one)
    return 0, 0


def _refuse_tiff(data: bytes | memoryview, max_pixels: int) -> None:
    """Refuse a TIFF whose first directory states too large tiles, or more strips or tiles than make it up.

    Raises:
        InvalidInput: It does, or Pillow and libtiff may read it differently.
    """
    fields, counts = _directory(data)
    tile_width, tile_length = fields[_TILE_WIDTH], fields[_TILE_LENGTH]
    tile = tile_width * tile_length
    if tile > max_pixels:
        raise InvalidInput(
            f"picture has tiles of {tile_width} x {tile_length} = {tile} pixels, expected at most {max_pixels}"
        )
    width, length = fields[_WIDTH], fields[_LENGTH]
    rows = fields[_ROWS_PER_STRIP]
    strips = -(-length // rows) if rows else 1
    tiles = -(-width // tile_width) * -(-length // tile_length) if tile else 1
    for what, count, needed in (("strips", counts[_STRIPS], strips), ("tiles", counts[_TILES], tiles)):
        if count > (most := min(_MAX_PARTS, _PLANES * max(needed, 1))):
            raise InvalidInput(f"picture is a TIFF of {count} {what}, expected at most {most} for its size")


def _directory(data: bytes | memoryview) -> tuple[dict[int, int], dict[int, int]]:
    """Return the sizes in a TIFF's first directory and its numbers of strips and tiles; zeros for any other file.

    Raises:
        InvalidInput: Pillow and libtiff may read them differently.
    """
    sizes = dict.fromkeys((_WIDTH, _LENGTH, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH), 0)
    counts = {_STRIPS: 0, _TILES: 0}
    if data[:4] == _BIG_ENDIAN_BIG_TIFF:  # whose directory Pillow looks for where libtiff does not
        raise InvalidInput("picture is a big-endian BigTIFF, which is not read")
    big = data[:4] == _BIG_TIFF
    if not big and data[:4] not in _TIFFS:
        return sizes, counts

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little" if data[:2] == b"II" else "big")

    directory = number(8, 8) if big else number(4, 4)
    head, entry, inline = (8, 20, 8) if big else (2, 12, 4)
    first = directory + head
    count = min(number(directory, head), max(0, len(data) - first) // entry)
    for at in range(first, first + count * entry, entry):
        tag, kind, values = number(at, 2), number(at + 2, 2), number(at + 4, inline)
        if values > _MAX_VALUES and kind not in _BYTES:
            raise InvalidInput(f"picture is a TIFF with a field of {values} numbers, expected at most {_MAX_VALUES}")
        if tag in counts:
            counts[tag] = max(counts[tag], values)
        if tag not in sizes:
            continue
        size = _SIZES.get(kind, inline + 1)
        if size > inline or values != 1 or sizes[tag]:
            raise InvalidInput("picture is a TIFF whose size, or that of its strips or tiles, is no plain number")
        sizes[tag] = number(at + 4 + inline, size)
    return sizes, counts

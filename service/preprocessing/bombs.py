"""Refuses pictures that cost far more than their size in pixels suggests, from the bytes and before any decoding.

A progressive JPEG may rewrite all its pixels every few bytes. The tiles of a compressed TIFF are decoded whole and may
be thousands of times larger than the picture. The cost of some of Pillow's steps at opening grows with the square of
the bytes, or with sizes stated only inside the picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from service.errors import InvalidInput

# libtiff's limit for a JPEG in a TIFF (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER); encoders write about a dozen.
_MAX_SCANS = 100
_SCAN = b"\xff\xda"
# ITU-T T.81, B.1.1.2: fill bytes and a marker. 00 and the restart markers occur within a scan. TEM (01), which libjpeg
# skips, and SOI (D8), at which it gives up, have no length.
_MARKER = re.compile(rb"\xff+([^\x00\x01\xff\xd0-\xd8])")
_JPEG, _END = b"\xff\xd8", 0xD9
# For each Exif segment Pillow copies all Exif read so far, and it keeps a record of every segment. A colour profile
# has at most 255 segments.
_MAX_EXIFS, _MAX_SEGMENTS = 100, 4096
# Pillow searches the bytes between segments one by one, in 0.25 us each. They are fill bytes, of which there may be any
# number, or, in pictures of some phones, a segment with an overwritten marker.
_MAX_BETWEEN = 1 << 17
_EXIF, _EXIF_MARKER = b"Exif\0\0", 0xE1
_TIFFS = (b"II*\0", b"MM\0*")
_BIG_TIFF, _BIG_ENDIAN_BIG_TIFF = b"II+\0", b"MM\0+"
# TIFF 6.0, sections 8 and 15.
_WIDTH, _LENGTH, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 278, 322, 323
_STRIPS, _TILES = 273, 324
_SIZES = {3: 2, 4: 4, 16: 8}  # SHORT, LONG and BigTIFF's LONG8, in bytes
# Per picture: Pillow takes up to 0.02 ms for each part. With tiles of 64 x 64 this allows 268 million pixels.
_MAX_PARTS = 65536
# A 16-bit palette has 196,608 values, and each becomes an object, also of SBYTE (6). Texts and colour profiles are
# BYTE, ASCII or UNDEFINED and stay bytes.
_MAX_VALUES, _BYTES = 262_144, (1, 2, 7)
_PLANES = 8  # channels may be stored separately, each in its own strips, with a partial last strip
# PNG, third edition, 11.3: chunks that Pillow unpacks, from a kilobyte to up to a megabyte each.
_PNG = b"\x89PNG"
_MAX_PACKED = 100
_PACKED = (b"iCCP", b"zTXt", b"iTXt")
_GIF = b"GIF8"
# Pillow decodes run-length codes in Python, a hundred times slower than anything else.
_BMP, _RUN_LENGTHS = b"BM", (1, 2)
_RUN_LENGTH_SHARE = 8


def refuse_bombs(data: bytes | memoryview, max_pixels: int) -> None:
    """Refuse a picture whose opening or decoding would cost far more than its pixels do.

    Args:
        data: A picture of any format, possibly damaged.
        max_pixels: Maximum number of pixels of a picture, and so of a tile.

    Raises:
        InvalidInput: The picture would cost too much; names the reason (INVALID_ARGUMENT).
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
        _refuse_pixels(abs(width), abs(height), max_pixels // _RUN_LENGTH_SHARE, " in run-length codes")


def may_have_many_scans(data: bytes | memoryview) -> bool:
    """Tell whether a JPEG may have more scans than allowed. Quick; may err on the side of True, never of False."""
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
    """Yield a JPEG's segments as (marker, position of its length field, end)."""
    position = len(_JPEG)
    while (found := _MARKER.search(data, position)) is not None:
        start = found.end()
        position = start + int.from_bytes(data[start : start + 2], "big")
        yield found[1][0], start, position


def _has_more_scans(data: bytes, most: int) -> bool:
    """Tell whether libjpeg would find more than ``most`` scans in a JPEG; bytes after its end do not count."""
    scans = 0
    for kind, _, _ in _segments(data):
        if kind == _END:
            break
        scans += kind == _SCAN[1]
        if scans > most:
            return True
    return False


def _refuse_png(data: bytes) -> None:
    # Counting is quick, and no picture contains these words so often by chance.
    if sum(map(data.count, _PACKED)) > _MAX_PACKED:
        raise InvalidInput(f"picture is a PNG of more than {_MAX_PACKED} compressed texts or profiles")
    position, chunks = 8, 0
    while position < len(data) and data[position + 4 : position + 8] != b"IEND":
        position += 12 + int.from_bytes(data[position : position + 4], "big")
        chunks += 1
        if chunks > _MAX_PARTS:
            raise InvalidInput(f"picture is a PNG of more than {_MAX_PARTS} chunks")


def _first_frame(data: bytes | memoryview) -> tuple[int, int]:
    """Return the width and height that Pillow derives from a GIF's first frame, which may exceed the screen.

    Pillow allocates that size as soon as it opens the file. Zeros if there is no frame.

    Raises:
        InvalidInput: Too many blocks precede the first frame.
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
            # Like Pillow: in extensions other than comments, blocks may follow an empty first block.
            skips_one = not is_comment and data[position + 1 : position + 2] == b"\0"
            position = blocks_end(position + 1 + skips_one)
    return 0, 0


def _refuse_tiff(data: bytes | memoryview, max_pixels: int) -> None:
    """Refuse a TIFF whose first directory has too large tiles, or more strips or tiles than its size needs.

    Raises:
        InvalidInput: It is refused, or Pillow and libtiff may read it differently.
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
    """Return the sizes in a TIFF's first directory and the numbers of strips and tiles; zero if not stated.

    Raises:
        InvalidInput: Pillow and libtiff may read them differently.
    """
    sizes = dict.fromkeys((_WIDTH, _LENGTH, _ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH), 0)
    counts = {_STRIPS: 0, _TILES: 0}
    if data[:4] == _BIG_ENDIAN_BIG_TIFF:  # Pillow and libtiff look for its directory in different places
        raise InvalidInput("picture is a big-endian BigTIFF, which is not supported")
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
            raise InvalidInput("picture is a TIFF whose size, or that of its strips or tiles, is not a single number")
        sizes[tag] = number(at + 4 + inline, size)
    return sizes, counts

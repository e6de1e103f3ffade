"""Pictures of few pixels that would take seconds or gigabytes: refused before they are decoded."""

from __future__ import annotations

import contextlib
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidInput
from service.preprocessing.bombs import refuse_bombs
from service.preprocessing.image import DEFAULT_LIMITS, ImageLimits, decode
from tests.unit.service.samples import encoded

FEW = ImageLimits(max_pixels=10_000)
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8))


def with_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times."""
    data = encoded(NOISE, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def tiff(width: int, length: int, *, order: str = "<", big: bool = False, kind: int = 4, values: int = 1) -> bytes:
    """A TIFF of one grey pixel, in one tile of this size, compressed (TIFF 6.0, sections 2 and 15)."""
    tile = zlib.compress(bytes(width * length) if width * length < 1 << 16 else b"")
    fields = {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 322: width, 323: length, 324: 0, 325: len(tile)}
    wide = "Q" if big else "I"
    begin = struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    fields[324] = 2 + len(begin) + (8 + 20 * len(fields) + 8 if big else 2 + 12 * len(fields) + 4)
    out = (b"II" if order == "<" else b"MM") + begin + struct.pack(f"{order}{'Q' if big else 'H'}", len(fields))
    for tag, value in fields.items():
        is_side = tag in (322, 323)
        packed = struct.pack(f"{order}{'H' if is_side and kind == 3 else 'I'}", value).ljust(8 if big else 4, b"\0")
        out += struct.pack(f"{order}HH{wide}", tag, kind if is_side else 4, values if is_side else 1) + packed
    return out + bytes(8 if big else 4) + tile


def refusal(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    with pytest.raises(InvalidInput) as caught:
        decode(data, "L", limits)
    return caught.value.message


def test_a_jpeg_that_goes_over_its_pixels_again_and_again_is_refused() -> None:
    assert refusal(with_scans(101)) == "picture is a JPEG of more than 100 scans"
    assert decode(with_scans(50), "L").size == (300, 300)


def test_what_follows_a_jpegs_end_are_no_scans() -> None:
    """Telephones put films there."""
    film = b"\xff\xda" * 1000
    assert decode(encoded(NOISE, "JPEG") + film, "L").size == (300, 300)
    assert decode(encoded(NOISE, "JPEG", comment=film), "L").size == (300, 300)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("kind", [3, 4])
def test_a_tile_is_no_larger_than_a_picture(order: str, big: bool, kind: int) -> None:
    bomb = tiff(128, 256, order=order, big=big, kind=kind)
    assert refusal(bomb, FEW) == "picture has tiles of 128 x 256 = 32768 pixels, expected at most 10000"
    assert decode(bomb, "L").size == (1, 1)
    assert "tiles of 46000 x 46000" in refusal(tiff(46000, 46000, order=order, big=big))


def test_what_pillow_and_libtiff_read_differently_is_refused() -> None:
    assert refusal(tiff(16, 16, order=">", big=True)) == "picture is a big-endian BigTIFF, which is not read"


@pytest.mark.parametrize(("kind", "values"), [(1, 1), (9, 1), (17, 1), (4, 2)])
def test_a_tile_whose_size_may_be_read_in_two_ways_is_refused(kind: int, values: int) -> None:
    assert refusal(tiff(16, 16, kind=kind, values=values)) == "picture is a TIFF whose tiles have no plain size"


@given(st.sampled_from([b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\xff\xd8", b"II", b""]), st.binary(max_size=100))
def test_is_at_a_loss_with_nothing(beginning: bytes, rest: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        refuse_bombs(beginning + rest, 100)

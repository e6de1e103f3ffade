"""Headers read without Pillow: what they say is what Pillow finds, and what is unusual is left to it."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidInput
from service.preprocessing import image
from service.preprocessing.header import Header, read_header
from service.preprocessing.image import ImageLimits, decode
from tests.unit.service.samples import encoded

RNG = np.random.default_rng(0)
COLOUR = Image.fromarray(RNG.integers(0, 256, (21, 34, 3), dtype=np.uint8))
GREY = COLOUR.convert("L")


def turned() -> bytes:
    """A JPEG that says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(COLOUR, "JPEG", exif=exif)


def opened(data: bytes, mode: str) -> np.ndarray:
    """What Pillow makes of a picture that nothing turns."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert(mode))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"optimize": True}, {"comment": "so"}, {"quality": 100}]
)
@pytest.mark.parametrize("picture", [GREY, COLOUR], ids=["L", "RGB"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_plain_jpeg_has_the_pixels_that_opening_gives(
    picture: Image.Image, mode: str, options: dict[str, Any]
) -> None:
    data = encoded(picture, "JPEG", **options)
    assert read_header(data) == Header(34, 21, picture.mode)
    found = decode(memoryview(data), mode)
    assert found.mode == mode
    assert np.array_equal(np.asarray(found), opened(data, mode))


def test_a_plain_jpeg_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(COLOUR, "JPEG")
    monkeypatch.setattr(Image, "open", lambda *_arguments, **_options: pytest.fail("opened"))
    assert decode(data, "RGB").size == (34, 21)


@pytest.mark.parametrize(
    "data",
    [
        turned(),
        encoded(Image.new("CMYK", (8, 8)), "JPEG"),
        encoded(COLOUR, "WEBP"),
        encoded(COLOUR, "GIF"),
        b"",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["Exif", "CMYK", "WebP", "GIF", "empty", "start of a JPEG", "start of a PNG"],
)
def test_what_is_unusual_has_no_header(data: bytes) -> None:
    assert read_header(data) is None


@pytest.mark.parametrize("data", [encoded(GREY), encoded(COLOUR)])
def test_a_png_tells_its_size(data: bytes) -> None:
    assert read_header(data) == Header(34, 21)


def test_a_png_tells_any_size_and_none_if_it_ends_before_it() -> None:
    data = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 0x01020304, 0x05060708)
    assert read_header(data) == Header(0x01020304, 0x05060708)
    assert read_header(data[:-1]) is None


@pytest.mark.parametrize("size", [(300, 40), (40, 300), (517, 1030)])
def test_a_jpeg_tells_sizes_of_two_bytes(size: tuple[int, int]) -> None:
    data = encoded(COLOUR.resize(size), "JPEG")
    assert read_header(data) == Header(*size, "RGB")
    assert np.array_equal(np.asarray(decode(data, "RGB")), opened(data, "RGB"))


@pytest.mark.parametrize("options", [{"comment": "so" * 700}, {"restart_marker_blocks": 1}])
def test_long_segments_and_restarts_are_passed_over(options: dict[str, Any]) -> None:
    assert read_header(encoded(COLOUR, "JPEG", **options)) == Header(34, 21, "RGB")


def frame_of(data: bytes) -> int:
    """Where a JPEG's frame begins."""
    return data.index(b"\xff\xc0")


def test_a_jpeg_of_more_than_eight_bits_has_no_header() -> None:
    data = bytearray(encoded(GREY, "JPEG"))
    data[frame_of(data) + 4] = 12
    assert read_header(bytes(data)) is None


def test_a_jpeg_whose_segments_do_not_follow_each_other_has_no_header() -> None:
    data = encoded(GREY, "JPEG")
    place = frame_of(data)
    assert read_header(data[:place] + b"\x00" + data[place:]) is None
    assert read_header(data[:place] + b"\x00" + data[place + 1 :]) is None


def test_a_jpeg_larger_than_allowed_is_refused_however_small_it_is() -> None:
    with pytest.raises(InvalidInput, match="picture has 34 x 21 = 714 pixels, expected at most 713"):
        decode(encoded(COLOUR, "JPEG"), "RGB", ImageLimits(max_pixels=713))
    assert decode(encoded(COLOUR, "JPEG"), "RGB", ImageLimits(max_pixels=714)).size == (34, 21)


def test_a_jpeg_with_two_frames_of_different_sizes_has_no_header() -> None:
    """Whoever reads the frame must read the one that is decoded: else the pixels do not fit."""
    data = encoded(GREY, "JPEG")
    place = data.index(b"\xff\xc0")
    frame = data[place : place + 2 + struct.unpack_from(">H", data, place + 2)[0]]
    other = frame[:5] + struct.pack(">HH", 1, 1) + frame[9:]
    assert read_header(data[:place] + other + data[place:]) is None


@given(st.data())
def test_whatever_is_damaged_fares_as_if_it_were_opened(data: st.DataObject) -> None:
    good = encoded(data.draw(st.sampled_from([GREY, COLOUR])), "JPEG")
    damaged = bytearray(good[: data.draw(st.integers(4, len(good)))])
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=3)):
        damaged[place] ^= data.draw(st.integers(1, 255))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image, "_decode_plain", lambda _data, _limits, _header: None)
        expected = outcome(bytes(damaged))
    assert outcome(bytes(damaged)) == expected


def outcome(data: bytes) -> bytes | str:
    try:
        return decode(data, "RGB", ImageLimits(max_pixels=10_000)).tobytes()
    except InvalidInput as error:
        return error.message

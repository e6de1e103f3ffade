from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import GifImagePlugin, Image, ImageFile, WebPImagePlugin

from service.errors import InvalidInput
from service.preprocessing.image import FORMATS, ImageLimits, decode, fit, load
from tests.unit.service.samples import encoded, image_spec

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
RGB_SPEC = image_spec(mode="RGB", mean=(0, 0, 0), std=(1, 1, 1), height=5, width=7, resize_px=5)
GREY_SPEC = image_spec(height=5, width=7, resize_px=5)
# As Pillow converts, ITU-R 601-2 luma: L = (299 R + 587 G + 114 B) / 1000.
LUMA = np.asarray(Image.fromarray(COLOUR).convert("L"))


def with_alpha(colours: np.ndarray) -> Image.Image:
    """The picture with a random alpha channel, which must not change a colour."""
    alpha = Image.fromarray(RNG.integers(0, 256, colours.shape[:2], dtype=np.uint8))
    image = Image.fromarray(colours)
    image.putalpha(alpha)
    return image


def palette(**options: Any) -> bytes:
    """A PNG in mode P whose colours are exact."""
    image = Image.frombytes("P", (7, 5), bytes(range(35)))
    image.putpalette(COLOUR.reshape(-1, 3).tobytes())
    return encoded(image, **options)


def bilevel() -> np.ndarray:
    return np.where(GREY > 127, 255, 0).astype(np.uint8)


def grey_png(bit_depth: int, values: np.ndarray) -> bytes:
    """A PNG of grey samples of 16 bits, written by hand (PNG specification, §11.2)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, bit_depth, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "grey"),
    [
        (encoded(Image.fromarray(GREY)), GREY),
        (encoded(Image.fromarray(bilevel()).convert("1")), bilevel()),
        (encoded(with_alpha(GREY)), GREY),
        (encoded(Image.fromarray(COLOUR)), LUMA),
        (encoded(with_alpha(COLOUR)), LUMA),
        (palette(), LUMA),
        (palette(transparency=3), LUMA),
        (palette(transparency=bytes(range(35))), LUMA),
        (encoded(Image.fromarray(COLOUR), transparency=tuple(COLOUR[0, 0].tolist())), LUMA),
        (encoded(Image.fromarray(GREY), "TIFF"), GREY),
        (encoded(Image.fromarray(GREY), "BMP"), GREY),
    ],
    ids=["L", "1", "LA", "RGB", "RGBA", "P", "P with tRNS", "P with alphas", "RGB with tRNS", "TIFF", "BMP"],
)
def test_every_mode_becomes_grey_or_its_three_channels(data: bytes, grey: np.ndarray) -> None:
    assert np.array_equal(load(data, GREY_SPEC)[..., 0], grey)
    colour = load(data, RGB_SPEC)
    assert np.array_equal(np.asarray(Image.fromarray(colour).convert("L")), grey)


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(COLOUR)),
        encoded(with_alpha(COLOUR)),
        palette(),
        palette(transparency=0),
        encoded(Image.fromarray(COLOUR), "BMP"),
        encoded(Image.fromarray(COLOUR), "TIFF", compression="tiff_lzw"),
        encoded(Image.fromarray(COLOUR), "WEBP", lossless=True),
        encoded(with_alpha(COLOUR), "WEBP", lossless=True, exact=True),
    ],
    ids=["PNG", "RGBA", "P", "P with tRNS", "BMP", "TIFF", "WebP", "WebP with alpha"],
)
def test_lossless_colours_come_through_exactly(data: bytes) -> None:
    array = load(data, RGB_SPEC)
    assert (array.dtype, array.shape) == (np.uint8, (5, 7, 3))
    assert np.array_equal(array, COLOUR)


def test_a_jpeg_is_decoded_from_ycbcr() -> None:
    data = encoded(Image.new("RGB", (16, 16), (200, 100, 50)), "JPEG", quality=95)
    colour = np.asarray(decode(data, "RGB")).reshape(-1, 3)
    assert np.abs(colour.astype(int) - (200, 100, 50)).max() <= 3
    grey = np.asarray(decode(data, "L"))
    assert np.abs(grey.astype(int) - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    data = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind)
    red, green, blue = np.asarray(decode(data, "RGB"))[4, 4].tolist()
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("kind", ["PNG by hand", "PNG", "TIFF", "big-endian TIFF", "32-bit TIFF"])
def test_sixteen_bits_a_channel_are_scaled_not_clipped(kind: str) -> None:
    wide = np.array([[0, 256, 257], [32768, 65534, 65535]], np.uint16)
    if kind == "PNG by hand":
        data = grey_png(16, wide)
    elif kind == "big-endian TIFF":
        data = encoded(Image.frombytes("I;16B", (3, 2), wide.astype(">u2").tobytes()), "TIFF")
    elif kind == "32-bit TIFF":
        data = encoded(Image.fromarray(wide.astype(np.int32)), "TIFF")
    else:
        data = encoded(Image.fromarray(wide), kind)
    expected = [[0, 0, 1], [127, 254, 255]]
    assert np.asarray(decode(data, "L")).tolist() == expected
    assert np.asarray(decode(data, "RGB"))[..., 2].tolist() == expected


def grey_tiff(bits: int, photometric: int, samples: np.ndarray) -> bytes:
    """A TIFF of one row of grey, written by hand (TIFF 6.0, section 4)."""
    data = samples.tobytes()
    fields = [(256, samples.size), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    fields.append((279, len(data)))
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(fields)) + directory + bytes(4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(grey_tiff(16, 0, np.array([0, 65535], np.uint16)), "0 for white", id="0 is white"),
        pytest.param(grey_tiff(12, 1, np.array([0x12, 0x34, 0x56], np.uint8)), "12-bit grey", id="12 bits"),
        pytest.param(grey_tiff(32, 1, np.array([0, 65536], np.uint32)), "grey from 0 to 65536", id="32 bits"),
        pytest.param(encoded(Image.fromarray(np.array([[-1, 9]], np.int32)), "TIFF"), "grey from -1 to 9", id="signed"),
    ],
)
def test_grey_whose_numbers_mean_something_else_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode(data, "L")
    assert np.asarray(decode(grey_tiff(16, 1, np.array([0, 65535], np.uint16)), "L")).tolist() == [[0, 255]]


def test_floating_point_pixels_are_refused() -> None:
    data = encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF")
    with pytest.raises(InvalidInput, match="floating-point pixels, expected 8 or 16 bits"):
        decode(data, "L")


def test_the_first_frame_of_a_gif_counts() -> None:
    frames = [Image.new("L", (7, 5), shade) for shade in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.unique(np.asarray(decode(data, "L"))).tolist() == [10]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_upright(orientation: int, kind: str) -> None:
    # EXIF 2.32, tag 0x0112: where row 0 and column 0 of the stored pixels belong.
    store = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: np.swapaxes(a, 0, 1),
        6: np.rot90,
        7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(store(COLOUR))), kind, exif=exif, **options)
    assert np.array_equal(np.asarray(decode(data, "RGB")), COLOUR)


def test_sixteen_bits_are_turned_upright_too() -> None:
    wide = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(np.ascontiguousarray(np.rot90(wide))), exif=exif)
    assert np.asarray(decode(data, "L")).tolist() == (wide // 257).tolist()


def refusal(data: bytes | memoryview, limits: ImageLimits | None = None) -> str:
    with pytest.raises(InvalidInput) as caught:
        decode(data, "RGB", limits or ImageLimits())
    return caught.value.message


def test_nothing_and_garbage_are_refused() -> None:
    assert refusal(b"") == "picture is empty, expected an encoded picture"
    assert refusal(b"no picture") == f"picture is of an unknown format, expected one of {', '.join(FORMATS)}"


def test_a_format_that_is_not_offered_is_refused() -> None:
    assert "unknown format" in refusal(encoded(Image.fromarray(COLOUR), "PPM"))
    assert "unknown format" in refusal(encoded(Image.fromarray(COLOUR), "ICO", sizes=[(7, 5)]))


NOISE = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_picture_is_refused(kind: str) -> None:
    data = encoded(NOISE, kind)
    assert len(data) > 500
    for share in (0.3, 0.6, 0.9):
        assert "picture is " in refusal(data[: int(len(data) * share)])


@settings(max_examples=150)
@given(kind=st.sampled_from(FORMATS), place=st.floats(0, 0.999), byte=st.integers(0, 255))
def test_a_damaged_picture_is_read_or_refused(kind: str, place: float, byte: int) -> None:
    data = bytearray(encoded(Image.fromarray(COLOUR), kind))
    data[int(len(data) * place)] = byte
    try:
        image = decode(bytes(data), "RGB", ImageLimits(max_pixels=10_000))
    except InvalidInput:
        return
    assert image.mode == "RGB"


@given(
    st.binary(max_size=60), st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b""])
)
def test_garbage_behind_a_known_beginning_is_refused(garbage: bytes, beginning: bytes) -> None:
    refusal(beginning + garbage)


def test_too_many_bytes_are_refused_unseen() -> None:
    assert refusal(b"x" * 11, ImageLimits(max_bytes=10)) == "picture has 11 bytes, expected at most 10"


def test_the_limits_themselves_are_allowed() -> None:
    data = encoded(Image.fromarray(COLOUR))
    assert decode(data, "RGB", ImageLimits(max_bytes=len(data), max_pixels=35)).size == (7, 5)
    message = refusal(data, ImageLimits(max_pixels=34))
    assert message == "picture has 7 x 5 = 35 pixels, expected at most 34"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_bomb_is_refused_by_its_header(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (400, 300)), kind)
    for holder in (ImageFile.ImageFile, WebPImagePlugin.WebPImageFile, GifImagePlugin.GifImageFile):
        monkeypatch.setattr(holder, "load", lambda *_: pytest.fail("pixels were decoded"))
    message = refusal(data, ImageLimits(max_pixels=119_999))
    assert message == "picture has 400 x 300 = 120000 pixels, expected at most 119999"


@pytest.mark.parametrize(
    ("resize", "width", "height"),
    [("exact", 1, 1_000_000), ("shorter-edge", 1, 1_000_000), ("shorter-edge", 1, 1000), ("shorter-edge", 1000, 1)],
)
def test_a_picture_too_narrow_to_be_scaled_is_refused(resize: str, width: int, height: int) -> None:
    spec = image_spec(height=224, width=224, resize_px=256, resize=resize)
    data = encoded(Image.new("L", (width, height)))
    with pytest.raises(InvalidInput, match=f"picture of {width} x {height} pixels is too narrow"):
        load(data, spec)


def with_metadata() -> tuple[bytes, int, int]:
    """A JPEG that lies on its side, and where its metadata begin and end."""
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "a maker", 0x0132: "2026:01:02 03:04:05", 0x011A: 72.0, 0x9286: b"a comment"})
    exif.get_ifd(0x8769).update({0x829A: 0.5, 0x9000: b"0230"})
    data = encoded(Image.new("RGB", (6, 4)), "JPEG", exif=exif)
    begin = data.index(b"Exif\0\0")
    return data, begin + 6, begin - 2 + int.from_bytes(data[begin - 2 : begin], "big")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300)
@given(st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=3))
def test_damaged_metadata_harm_no_picture(damage: list[tuple[float, int]]) -> None:
    data, begin, end = with_metadata()
    damaged = bytearray(data)
    for place, byte in damage:
        damaged[begin + int(place * (end - begin))] = byte
    assert decode(bytes(damaged), "RGB").size in ((4, 6), (6, 4))


def test_whole_metadata_turn_the_picture() -> None:
    assert decode(with_metadata()[0], "RGB").size == (4, 6)


def test_decoding_leaves_the_warnings_of_other_threads_alone() -> None:
    before = list(warnings.filters)
    data = encoded(NOISE, "JPEG")
    threads = [threading.Thread(target=lambda: [decode(data, "RGB") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


_sides = st.integers(1, 60)


@settings(max_examples=150)
@given(
    width=_sides,
    height=_sides,
    model_width=_sides,
    model_height=_sides,
    resize_px=_sides,
    resize=st.sampled_from(["exact", "shorter-edge"]),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    mode=st.sampled_from(["L", "RGB"]),
)
def test_any_size_gives_exactly_the_models_shape(
    width: int, height: int, model_width: int, model_height: int, mode: str, **how: Any
) -> None:
    channels = 1 if mode == "L" else 3
    spec = image_spec(
        mode=mode, mean=(0,) * channels, std=(1,) * channels, width=model_width, height=model_height, **how
    )
    array = fit(Image.new(mode, (width, height), "white"), spec)
    assert array.dtype == np.uint8
    assert array.shape == (model_height, model_width, channels)


def test_a_picture_of_the_right_size_is_not_touched() -> None:
    assert np.array_equal(fit(Image.fromarray(GREY), GREY_SPEC)[..., 0], GREY)


def test_shorter_edge_cuts_the_centre_out() -> None:
    columns = np.tile(np.arange(12, dtype=np.uint8), (4, 1))
    spec = image_spec(height=4, width=4, resize_px=4, resize="shorter-edge")
    assert fit(Image.fromarray(columns), spec)[0, :, 0].tolist() == [4, 5, 6, 7]
    assert fit(Image.fromarray(columns.T), spec)[:, 0, 0].tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(
    ("width", "first"), [(5, 0), (7, 2), (9, 2), (11, 4)], ids=["0.5 to 0", "1.5 to 2", "2.5 to 2", "3.5 to 4"]
)
def test_where_a_cut_begins_is_rounded_to_nearest_even(width: int, first: int) -> None:
    columns = np.tile(np.arange(width, dtype=np.uint8), (4, 1))
    spec = image_spec(height=4, width=4, resize_px=4, resize="shorter-edge")
    assert fit(Image.fromarray(columns), spec)[0, 0, 0] == first
    assert fit(Image.fromarray(columns.T), spec)[0, 0, 0] == first


def test_exactly_is_without_regard_to_the_edges() -> None:
    halves = Image.fromarray(np.array([[0] * 4 + [200] * 4], dtype=np.uint8))
    spec = image_spec(height=1, width=2, resize_px=1, resize="exact", interpolation="nearest")
    assert fit(halves, spec)[..., 0].tolist() == [[0, 200]], "nothing is cut off"


def test_metadata_that_cannot_be_read_turn_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_image: Image.Image) -> Image.Exif:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert decode(encoded(Image.fromarray(COLOUR)), "RGB").size == (7, 5)


def test_a_cut_larger_than_the_picture_is_padded_with_zeros() -> None:
    spec = image_spec(height=2, width=5, resize_px=2, resize="shorter-edge")
    assert fit(Image.new("L", (2, 2), 9), spec)[..., 0].tolist() == [[0, 9, 9, 0, 0]] * 2


def test_a_view_of_bytes_is_taken() -> None:
    data = memoryview(encoded(Image.fromarray(GREY)))
    assert np.array_equal(load(data, GREY_SPEC)[..., 0], GREY)


def test_the_result_owns_its_memory_layout() -> None:
    file = io.BytesIO(encoded(Image.fromarray(COLOUR)))
    assert load(file.getvalue(), RGB_SPEC).flags.c_contiguous

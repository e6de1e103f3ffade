"""Pictures of few pixels that would take seconds or gigabytes: refused before they are decoded."""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidInput
from service.logs import _BOUNDS
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
    film = b"\0\0" + b"\xff\xda\0\x02" * 1000
    assert decode(encoded(NOISE, "JPEG") + film, "L").size == (300, 300)
    assert decode(encoded(NOISE, "JPEG", comment=film), "L").size == (300, 300)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("kind", [3, 4])
def test_a_tile_is_no_larger_than_a_picture(order: str, big: bool, kind: int) -> None:
    bomb = tiff(128, 256, order=order, big=big, kind=kind)
    assert refusal(bomb, FEW) == "picture has tiles of 128 x 256 = 32768 pixels, expected at most 10000"
    assert decode(bomb, "L").size == (1, 1)
    assert "tiles of 46000 x 46000" in refusal(tiff(46000, 46000, order=order, big=big, kind=16 if big else 4))


def test_what_pillow_and_libtiff_read_differently_is_refused() -> None:
    assert refusal(tiff(16, 16, order=">", big=True)) == "picture is a big-endian BigTIFF, which is not supported"


@pytest.mark.parametrize(("kind", "values"), [(1, 1), (9, 1), (16, 1), (17, 1), (4, 2)])
def test_a_tile_whose_size_may_be_read_in_two_ways_is_refused(kind: int, values: int) -> None:
    assert (
        refusal(tiff(16, 16, kind=kind, values=values))
        == "picture is a TIFF whose size, or that of its strips or tiles, is not a single number"
    )


def test_a_marker_without_a_length_hides_no_scans() -> None:
    """After TEM (01) comes the next marker; read as a length, it would lead past thousands of scans."""
    data = encoded(Image.new("L", (64, 64), 77), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    scan = data[last:-2]
    hidden = b"\xff\x01" + scan * (0xFFDA // len(scan) + 1)
    assert refusal(data[:last] + hidden + b"\xff\xd9") == "picture is a JPEG of more than 100 scans"
    assert decode(data[:last] + b"\xff\x01" + scan + b"\xff\xd9", "L").size == (64, 64)


def test_a_small_jpeg_has_no_more_scans_either() -> None:
    data = encoded(Image.new("L", (64, 64), 77), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    assert refusal(data[:last] + data[last:-2] * 101 + b"\xff\xd9") == "picture is a JPEG of more than 100 scans"


@pytest.mark.parametrize(
    "many",
    [
        b"\xff\xe1\x00\x09Exif\0\0x" * 101,  # Pillow copies all that came before for each
        b"\xff\xe3\x00\x02" * 4097,  # and keeps a record of each, thirty times as large
        b"\xff" * 131_073,
        b"x" * 131_073,
        (b"\xff\xe3\x00\x02" + b"\xff" * 1310) * 101,
    ],
    ids=["Exif", "segments", "fill bytes", "junk", "fill bytes here and there"],
)
def test_a_jpeg_has_not_much_before_its_first_scan(many: bytes) -> None:
    data = encoded(NOISE, "JPEG")
    assert refusal(data[:20] + many + data[20:]) == (
        "picture is a JPEG of more than 4096 segments before its first scan, 100 of Exif, or 131072 bytes between them"
    )
    few = many[: len(many) // 101 * 50]
    assert decode(data[:20] + few + data[20:], "L").size == (300, 300)


def test_a_jpeg_with_a_segment_whose_marker_was_overwritten_is_read() -> None:
    """As in pictures of some phones; by the standard there may be any number of fill bytes, too."""
    data, hidden = encoded(NOISE, "JPEG"), b"\0\xe1\xfe\xfdExif\0\0" + bytes(0xFEFD - 8)
    assert decode(data[:20] + hidden + data[20:], "L") == decode(data, "L")


def gif(*blocks: bytes, screen: tuple[int, int] = (1, 1), colours: bytes = b"") -> bytes:
    flags = 0x80 | (len(colours) // 3).bit_length() - 2 if colours else 0
    return b"GIF89a" + struct.pack("<HHBBB", *screen, flags, 0, 0) + colours + b"".join(blocks) + b";"


def frame(width: int, height: int, left: int = 0) -> bytes:
    return b"," + struct.pack("<HHHHB", left, 0, width, height, 0) + b"\x08\x02\0\0\0"


REPLACED = b"!\xf9\x04\x08\0\0\0\0"  # a frame after which the background comes: Pillow makes it on opening


@pytest.mark.parametrize(
    "before",
    [REPLACED, b"!\xfe\0" + REPLACED, b"!\x01\0\x01,\0" + REPLACED, b"!\xfe\x02,;\0" + REPLACED, b"junk" + REPLACED],
    ids=["nothing", "empty comment", "empty block", "comment", "junk"],
)
def test_a_gif_is_as_large_as_its_first_frame(before: bytes) -> None:
    """Of 37 bytes Pillow made four gigabytes before its size could be asked."""
    bomb = gif(before, frame(65535, 65535))
    assert refusal(bomb) == "picture has 65535 x 65535 = 4294836225 pixels, expected at most 50000000"
    for colours in (b"", b";" * 6, b";" * 768):
        with pytest.raises(InvalidInput, match="70 x 200 = 14000 pixels"):
            refuse_bombs(gif(before, frame(60, 200, left=10), colours=colours), FEW.max_pixels)


BLOCKS = st.one_of(
    st.builds(
        lambda label, body: b"!" + bytes([label]) + body, st.sampled_from([1, 0xF9, 0xFE, 0xFF]), st.binary(max_size=8)
    ),
    st.builds(frame, st.integers(0, 300), st.integers(0, 300), st.integers(0, 300)),
    st.just(REPLACED),
    st.binary(max_size=3),
)


@given(st.lists(BLOCKS, max_size=6))
def test_no_gif_is_larger_than_it_was_taken_for(blocks: list[bytes]) -> None:
    data = gif(*blocks)
    try:
        refuse_bombs(data, FEW.max_pixels)
    except InvalidInput:
        return
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=["GIF"]) as image:
        assert image.width * image.height <= FEW.max_pixels


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt", b"iTXt"])
def test_a_png_unpacks_no_profile_or_text_again_and_again(kind: bytes) -> None:
    """Each of a kilobyte becomes a megabyte, which those of texts without a name are not counted for."""
    data = encoded(NOISE, "PNG")
    packed = {b"iTXt": b"\0\1\0\0\0", b"zTXt": b"\0\0", b"iCCP": b"p\0\0"}[kind] + zlib.compress(bytes(1000))
    chunk = struct.pack(">I", len(packed)) + kind + packed + struct.pack(">I", zlib.crc32(kind + packed))
    assert (
        refusal(data[:33] + chunk * 101 + data[33:]) == "picture is a PNG of more than 100 compressed texts or profiles"
    )
    assert decode(data[:33] + chunk + data[33:], "L").size == (300, 300)


def strips(count: int, length: int = 100, rows: int = 99) -> bytes:
    """A raw TIFF of 100 pixels a row whose strips are all the same bytes."""
    fields = {256: 100, 257: length, 258: 8, 259: 1, 262: 1, 273: 0, 278: rows, 279: 100 * rows}
    end = 8 + 2 + 12 * len(fields) + 4
    out = struct.pack("<4sIH", b"II*\0", 8, len(fields))
    for tag, value in fields.items():
        out += struct.pack("<HHII", tag, 4, count if tag == 273 else 1, end if tag == 273 else value)
    return out + bytes(4) + struct.pack("<I", end + 4 * count) * count + bytes(100 * rows)


def test_a_tiff_has_no_more_strips_than_make_it_up() -> None:
    """Pillow would begin again at the top with what is left of them."""
    assert refusal(strips(17)) == "picture is a TIFF of 17 strips, expected at most 16 for its size"
    assert (
        refusal(strips(70_000, 70_000, 1)) == "picture is a TIFF of 70000 strips, expected at most 65536 for its size"
    )
    assert decode(strips(2), "L").size == (100, 100)
    assert decode(encoded(NOISE, "TIFF", compression="tiff_lzw"), "L").size == (300, 300)


@pytest.mark.parametrize(
    ("kind", "size", "allowed"),
    [(1, 1, True), (2, 1, True), (7, 1, True), (6, 1, False), (3, 2, False), (5, 8, False), (12, 8, False)],
)
def test_a_tiff_has_no_field_of_millions_of_numbers(kind: int, size: int, allowed: bool) -> None:
    """Of 32 MB of fractions Pillow made a gigabyte in eleven seconds, of 20 MB of signed bytes 400 MB."""
    numbers = 262_145
    fields = {256: (4, 1, 1), 257: (4, 1, 1), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}
    fields[282] = (kind, numbers, 8 + 2 + 12 * 7 + 4)
    out = struct.pack("<4sIH", b"II*\0", 8, len(fields))
    for tag, field in fields.items():
        out += struct.pack("<HHII", tag, *field)
    picture = out + bytes(4) + bytes(size * numbers)
    if allowed:
        refuse_bombs(picture, 100)
    else:
        assert refusal(picture) == "picture is a TIFF with a field of 262145 numbers, expected at most 262144"


def test_exif_is_not_endless() -> None:
    """Of an orientation of four million fractions Pillow made half a gigabyte in five seconds."""
    for name, value in ((b"eXIf", bytes(1 << 20)), (b"tEXt", b"Raw profile type exif\0" + b"0" * ((1 << 20) + 1))):
        png = encoded(NOISE, "PNG")
        chunk = struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))
        message = refusal(png[:33] + chunk + png[33:])
        assert message.endswith("bytes of Exif, expected at most 1048576")


def shared(size: int) -> bytes:
    """Exif, half of whose bytes are fields and the other half the value of each of them."""
    fields = size // 24
    values = bytes(size - 14 - 12 * fields)
    head = struct.pack("<4sIH", b"II*\0", 8, fields)
    entries = (struct.pack("<HHII", 1000 + number, 7, len(values), 14 + 12 * fields) for number in range(fields))
    return head + b"".join(entries) + bytes(4) + values


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_fields_that_share_their_bytes_are_not_copied_for_each(kind: str) -> None:
    """Pillow before 13 made 80 MB of 64 KB, and of 1 MiB 22 GB."""
    exif = shared(65_000)
    picture = exif if kind == "TIFF" else encoded(NOISE, kind, exif=b"Exif\0\0" + exif)
    tracemalloc.start()
    try:
        with contextlib.suppress(InvalidInput):
            decode(picture, "L")
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_what_pillow_goes_over_piece_by_piece_has_not_too_many_pieces() -> None:
    """A second for 4 MB of them, in which Python runs little else."""
    chunk = struct.pack(">I4sI", 0, b"juNk", zlib.crc32(b"juNk"))
    png = encoded(NOISE, "PNG")
    assert refusal(png[:33] + chunk * 65_536 + png[33:]) == "picture is a PNG of more than 65536 chunks"
    assert decode(png[:33] + chunk * 60_000 + png[33:] + bytes(1_000_000), "L").size == (300, 300)
    for pieces in (b"!\xfe\x01x\0", b"!\xfe" + b"\x01x" * 70_000 + b"\0", b"x"):
        many = gif(pieces * (1 if len(pieces) > 9 else 65_536), frame(1, 1))
        assert refusal(many) == "picture is a GIF of more than 65536 blocks before its first frame"


def fax(body: bytes, samples: int = 1) -> bytes:
    """A TIFF of 30 x 1000 pixels in Group 3 code."""
    fields = {256: 30, 257: 1000, 258: 1, 259: 3, 262: 0, 273: 0, 277: samples, 278: 1000, 279: len(body)}
    end = 8 + 2 + 12 * len(fields) + 4
    out = struct.pack("<4sIH", b"II*\0", 8, len(fields))
    for tag, value in fields.items():
        out += struct.pack("<HHII", tag, 4, 1, end if tag == 273 else value)
    return out + bytes(4) + body


def test_a_damaged_tiff_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff wrote a line to stderr for each row of a damaged fax, and one for every other damage."""
    assert decode(fax(np.random.default_rng(0).bytes(2000)), "L").size == (30, 1000)
    assert capfd.readouterr().err == ""


def test_what_pillow_logs_of_a_damaged_picture_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.suppress(InvalidInput):
        decode(fax(b"", samples=1000), "L")
    assert {record.name for record in caplog.records if record.levelno >= logging.INFO} <= set(_BOUNDS)
    assert caplog.records


@pytest.mark.parametrize(
    "data",
    [
        gif(b"!\xfe\x02,;\0" + REPLACED, frame(60, 20), colours=bytes(6)),
        encoded(Image.new("L", (1, 1)), "PNG"),
        encoded(Image.new("L", (1, 1)), "JPEG"),
        tiff(16, 16),
        tiff(16, 16, big=True),
    ],
    ids=["GIF", "PNG", "JPEG", "TIFF", "BigTIFF"],
)
def test_what_is_cut_off_anywhere_is_looked_at(data: bytes) -> None:
    for end in range(len(data)):
        refuse_bombs(data[:end], FEW.max_pixels)


def run_lengths(width: int, height: int) -> bytes:
    """A BMP whose every row ends at once."""
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    body = b"\1\5\0\0" * height + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", 1078 + len(body), 0, 0, 1078) + head + palette + body


def test_a_bmp_of_run_lengths_is_small() -> None:
    """Pillow decodes it in Python: of a kilobyte of 50 million pixels for six seconds."""
    bomb = run_lengths(25_000_000, 2)
    assert refusal(bomb) == "picture has 25000000 x 2 = 50000000 pixels in run-length codes, expected at most 6250000"
    assert decode(run_lengths(100, 100), "L").size == (100, 100)


@given(
    st.sampled_from([b"GIF89a", b"\x89PNG", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\xff\xd8", b"II", b""]),
    st.binary(max_size=100),
)
def test_is_at_a_loss_with_nothing(beginning: bytes, rest: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        refuse_bombs(beginning + rest, 100)

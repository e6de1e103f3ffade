"""Pictures that are hard to read, made here."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def digit_one(size: int = 28) -> Image.Image:
    """An upright white stroke on black, which LeNet-5 takes for a 1, with a bright dot at its upper right."""
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[4:24, 13:16] = 255
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST)


def odd_pictures() -> dict[str, bytes]:
    """The same digit in modes and formats that a careless decoder gets wrong."""
    grey = digit_one()
    colour = grey.convert("RGB")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    turned = grey.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to show": undoes the turn
    transparent = grey.convert("RGB").convert("P")
    return {
        "grey PNG": encode(grey),
        "grey JPEG": encode(grey, "JPEG", quality=95),
        "colour JPEG": encode(colour, "JPEG", quality=95),
        "CMYK JPEG": encode(colour.convert("CMYK"), "JPEG", quality=95),
        "CMYK TIFF": encode(colour.convert("CMYK"), "TIFF"),
        "16-bit PNG": encode(wide),
        "16-bit TIFF": encode(wide, "TIFF"),
        "palette PNG": encode(transparent),
        "palette PNG with transparency": encode(transparent, transparency=7),
        "palette GIF": encode(grey.convert("P"), "GIF"),
        "black and white PNG": encode(grey.convert("1")),
        "RGBA PNG": encode(grey.convert("RGBA")),
        "grey and alpha PNG": encode(grey.convert("LA")),
        "WebP": encode(colour, "WEBP", lossless=True),
        "BMP": encode(grey, "BMP"),
        "progressive JPEG": encode(grey, "JPEG", quality=95, progressive=True),
        "EXIF-rotated JPEG": encode(turned, "JPEG", quality=95, exif=exif),
        "EXIF-rotated PNG": encode(turned, exif=exif),
        "large PNG": encode(digit_one(560)),
    }


@cache
def bomb(width: int = 15_000, height: int = 14_000) -> bytes:
    """A PNG of a few hundred kilobytes that becomes 210 MB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + width)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

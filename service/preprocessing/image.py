"""Encoded pictures to uint8 arrays, as an :class:`~service.spec.ImageSpec` describes.

Two steps so that training can vary one: *decode* (any format and mode to L or RGB, upright) and
*geometry* (resize, crop). Normalisation is in the graph. Pillow releases the GIL while it decodes
and resizes, so a small pool of threads scales.
"""

from __future__ import annotations

import ctypes
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, _imaging

from service.errors import InvalidInput
from service.preprocessing.bombs import may_have_many_scans, refuse_bombs
from service.preprocessing.header import Header, read_header
from service.spec import ImageSpec

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Our own limit is checked on the header, before any pixel is decoded, and names the numbers.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about metadata that we do not use. Said once for the process: warnings.catch_warnings
# is not safe in threads, and each new text would stay in Python's registry of warnings.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def _hush_libtiff() -> None:
    """Keep libtiff from writing to stderr: for 20 KB of damaged fax it wrote a line for each of a million rows.

    Pillow reports the failure all the same. A Pillow that was built otherwise is left as it is.
    """
    try:
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError):
        return
    set_handler.argtypes = [ctypes.c_void_p]
    set_handler.restype = ctypes.c_void_p
    set_handler(None)


_hush_libtiff()

_SMALL_PIXELS = 256 * 256
_SMALL_BYTES = 65536
_MAX_SCALED_PIXELS = 50_000_000  # 200 MB at Pillow's four bytes a pixel

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# TIFF 6.0, section 8.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _BLACK_IS_ZERO = 258, 262, 1
# Where Pillow keeps it; a PNG may also hold it in hexadecimal. Cameras write 64 KiB at most, and each number becomes an
# object once Pillow looks for the orientation.
_EXIFS, _MAX_EXIF_BYTES = ("exif", "Raw profile type exif"), 1 << 20
# EXIF 2.32, tag 0x0112, to what puts row 0 and column 0 into the upper left corner.
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds on one encoded picture.

    Attributes:
        max_bytes: Largest encoded size in bytes.
        max_pixels: Largest width times height, read from the header before decoding.
    """

    max_bytes: int = 32 * 1024 * 1024
    max_pixels: int = 50_000_000


DEFAULT_LIMITS = ImageLimits()


def load(
    data: bytes | memoryview, spec: ImageSpec, limits: ImageLimits = DEFAULT_LIMITS, header: Header | None = None
) -> np.ndarray:
    """Turn one encoded picture into the model's input.

    Args:
        data: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF.
        spec: The model's preprocessing.
        limits: Bounds checked before decoding.
        header: What :func:`read_header` said, if it was asked.

    Returns:
        uint8 (H, W, C), values 0 to 255.

    Raises:
        InvalidInput: Too large, damaged, truncated or of no known format (INVALID_ARGUMENT).
    """
    return fit(decode(data, spec.mode, limits, header), spec)


def decode(
    data: bytes | memoryview, mode: str, limits: ImageLimits = DEFAULT_LIMITS, header: Header | None = None
) -> Image.Image:
    """Decode to ``mode``, upright by the EXIF orientation; an alpha channel is dropped.

    Raises:
        InvalidInput: As for :func:`load`.
    """
    if len(data) == 0:
        raise InvalidInput("picture is empty, expected an encoded picture")
    if len(data) > limits.max_bytes:
        raise InvalidInput(f"picture has {len(data)} bytes, expected at most {limits.max_bytes}")
    plain = _decode_plain(data, limits, header or read_header(data))
    if plain is not None:
        return plain if plain.mode == mode else plain.convert(mode)
    refuse_bombs(data, limits.max_pixels)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > limits.max_pixels:
                raise InvalidInput(
                    f"picture has {image.width} x {image.height} = {pixels} pixels, "
                    f"expected at most {limits.max_pixels}"
                )
            if (size := max(len(image.info.get(name) or "") for name in _EXIFS)) > _MAX_EXIF_BYTES:
                raise InvalidInput(f"picture has {size} bytes of Exif, expected at most {_MAX_EXIF_BYTES}")
            image.load()  # a TIFF turns itself meanwhile
            return _to_mode(_upright(image), mode)
    except InvalidInput:
        raise
    except UnidentifiedImageError:
        raise InvalidInput(f"picture is of no known format, expected one of {', '.join(FORMATS)}") from None
    except Exception as error:  # Pillow's decoders raise whatever they meet in damaged data
        raise InvalidInput(f"picture is damaged or truncated ({type(error).__name__})") from None


def _decode_plain(data: bytes | memoryview, limits: ImageLimits, header: Header | None) -> Image.Image | None:
    """Decode a small plain JPEG to the same pixels in half the time; None leaves it to Pillow to open or refuse.

    For a large picture, opening is a small part of the cost, and a damaged one would be decoded twice. One with many
    bytes or scans for its pixels must be checked first.
    """
    if header is None or not header.jpeg_mode or not 0 < header.pixels <= min(_SMALL_PIXELS, limits.max_pixels):
        return None
    if len(data) > _SMALL_BYTES or may_have_many_scans(data):
        return None
    try:
        return Image.frombytes(header.jpeg_mode, (header.width, header.height), data, "jpeg", (header.jpeg_mode, ""))
    except (ValueError, OSError):  # damaged
        return None


def fit(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Resize and crop a decoded picture of the right mode to uint8 (H, W, C).

    ``"shorter-edge"`` follows torchvision's ``Resize(int)`` and ``CenterCrop``: the longer edge is
    rounded down, the offsets are rounded to nearest even, and a picture smaller than the cut is
    padded with zeros.

    Raises:
        InvalidInput: The picture is so narrow, such as one pixel by a million, that it would fill the memory while
            it is scaled (INVALID_ARGUMENT).
    """
    width, height = image.size
    if spec.resize == "exact":
        size = (spec.width, spec.height)
    else:
        short, long = sorted((width, height))
        scaled = int(spec.resize_px * long / short)
        size = (spec.resize_px, scaled) if width <= height else (scaled, spec.resize_px)
    if size[0] * max(size[1], height) > _MAX_SCALED_PIXELS:  # Pillow scales the width first
        raise InvalidInput(
            f"picture of {width} x {height} pixels is too narrow, "
            f"expected at most {_MAX_SCALED_PIXELS} pixels while it is scaled"
        )
    if (width, height) != size:
        image = image.resize(size, _FILTERS[spec.interpolation])
    if size != (spec.width, spec.height):
        left, top = _offset(size[0], spec.width), _offset(size[1], spec.height)
        image = image.crop((left, top, left + spec.width, top + spec.height))
    return np.frombuffer(image.tobytes(), np.uint8).reshape(spec.shape)


def _offset(size: int, cut: int) -> int:
    """Return where a cut begins; below 0 if the cut is larger, with the odd pixel of padding at the end."""
    return round((size - cut) / 2.0) if size >= cut else -((cut - size) // 2)


def _upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; damaged metadata has no effect.

    ``ImageOps.exif_transpose`` also rewrites the other metadata, which may fail, and copies every picture.
    """
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow raises whatever it meets in damaged metadata
        return image
    return image if turn is None else image.transpose(turn)


def _wide_grey(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey (I;16, or I for a TIFF of 32) to L: 65535 becomes 255, where Pillow would clip.

    Raises:
        InvalidInput: Its numbers mean something else, which the answer would not show (INVALID_ARGUMENT).
    """
    tags = getattr(image, "tag_v2", {})  # a TIFF's, of which Pillow leaves two to us
    levels = np.asarray(image)
    if tags.get(_BITS_PER_SAMPLE, (16,))[0] < 16 or tags.get(_PHOTOMETRIC, _BLACK_IS_ZERO) != _BLACK_IS_ZERO:
        raise InvalidInput("picture has grey of 12 bits, or 0 for white, expected 8 or 16 bits a channel, 0 for black")
    if levels.size and (levels.min() < 0 or levels.max() > 65535):
        raise InvalidInput(
            f"picture has grey from {levels.min()} to {levels.max()}, expected 8 or 16 bits a channel, 0 to 65535"
        )
    return Image.fromarray((levels // 257).astype(np.uint8))


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert any Pillow mode to L or RGB with 8 bits per channel."""
    if image.mode.startswith("I"):
        image = _wide_grey(image)
    elif image.mode == "F":
        raise InvalidInput("picture has floating-point pixels, expected 8 or 16 bits a channel")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)

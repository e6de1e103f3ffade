"""Our resizing and cutting against torchvision's, pixel for pixel, on PIL pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.preprocessing.image import fit
from service.spec import ImageSpec

transforms = pytest.importorskip("torchvision.transforms")

_sides = st.integers(1, 90)
_filters = st.sampled_from(["nearest", "bilinear", "bicubic"])
_modes = st.sampled_from(["L", "RGB"])


def noise(mode: str, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def spec_of(mode: str, **fields: Any) -> ImageSpec:
    channels = 1 if mode == "L" else 3
    return ImageSpec(kind="image", mode=mode, mean=(0.0,) * channels, std=(1.0,) * channels, **fields)


def torchvisions(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    interpolation = transforms.InterpolationMode(spec.interpolation)
    if spec.resize == "exact":
        image = transforms.Resize((spec.height, spec.width), interpolation)(image)
    else:
        image = transforms.Resize(spec.resize_px, interpolation)(image)
        image = transforms.CenterCrop((spec.height, spec.width))(image)
    return np.asarray(image).reshape(spec.shape)


@settings(max_examples=150)
@given(mode=_modes, width=_sides, height=_sides, to_width=_sides, to_height=_sides, interpolation=_filters)
def test_exact(mode: str, width: int, height: int, to_width: int, to_height: int, interpolation: str) -> None:
    spec = spec_of(
        mode, height=to_height, width=to_width, resize="exact", resize_px=to_height, interpolation=interpolation
    )
    image = noise(mode, width, height)
    np.testing.assert_array_equal(fit(image, spec), torchvisions(image, spec), strict=True)


@settings(max_examples=250)
@given(mode=_modes, width=_sides, height=_sides, to_width=_sides, to_height=_sides, edge=_sides, interpolation=_filters)
def test_shorter_edge(
    mode: str, width: int, height: int, to_width: int, to_height: int, edge: int, interpolation: str
) -> None:
    spec = spec_of(
        mode, height=to_height, width=to_width, resize="shorter-edge", resize_px=edge, interpolation=interpolation
    )
    image = noise(mode, width, height)
    np.testing.assert_array_equal(fit(image, spec), torchvisions(image, spec), strict=True)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (257, 1023), (640, 640), (224, 224), (100, 60)])
@pytest.mark.parametrize(("edge", "cut"), [(256, 224), (232, 224), (224, 224)])
def test_the_presets_of_imagenet(size: tuple[int, int], edge: int, cut: int) -> None:
    spec = spec_of("RGB", height=cut, width=cut, resize="shorter-edge", resize_px=edge, interpolation="bilinear")
    image = noise("RGB", *size)
    np.testing.assert_array_equal(fit(image, spec), torchvisions(image, spec), strict=True)

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.service.samples import image_spec, text_spec


def test_channels_and_shape_follow_the_mode() -> None:
    assert image_spec().shape == (2, 3, 1)
    assert image_spec(mode="RGB", mean=(0, 0, 0), std=(1, 1, 1)).shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0}, "height, width and resize_px must be at least 1, got 0, 3 and 2"),
        ({"width": 0}, "height, width and resize_px must be at least 1, got 2, 0 and 2"),
        ({"resize_px": -1}, "height, width and resize_px must be at least 1, got 2, 3 and -1"),
        ({"mode": "RGB"}, "mean and std need 3 values for mode RGB, got 1 and 1"),
        ({"mean": (0.1, 0.2)}, "mean and std need 1 values for mode L, got 2 and 1"),
        ({"std": ()}, "mean and std need 1 values for mode L, got 1 and 0"),
        ({"std": (0.0,)}, r"std must be positive, got \[0.0\]"),
    ],
)
def test_an_image_spec_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^preprocessing: {message}$"):
        image_spec(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"padding_id": 1}, "padding_id and unknown_id must differ, both are 1"),
        ({"padding_id": -1}, "padding_id and unknown_id must be at least 0, got -1 and 1"),
        ({"padding_id": -1, "unknown_id": None}, "padding_id and unknown_id must be at least 0, got -1 and None"),
    ],
)
def test_an_impossible_text_spec_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^preprocessing: {message}$"):
        text_spec(**changes)

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from export.data.golden import COUNT, doubted_pictures, golden_pictures, golden_raw, golden_sentences
from export.data.scenes import SCENES, draw_scene
from export.recipe import find_recipe
from service.preprocessing import image
from service.spec import ImageSpec

SPEC = find_recipe("lenet5-mnist").spec
assert isinstance(SPEC, ImageSpec)
COLOUR = dataclasses.replace(SPEC, mode="RGB", mean=(0.5,) * 3, std=(0.5,) * 3, height=32, width=32, resize_px=32)


@pytest.mark.parametrize("spec", [SPEC, COLOUR])
def test_pictures_are_different_drawings_of_the_models_size(spec: ImageSpec) -> None:
    arrays = [image.load(raw, spec) for raw in golden_pictures(spec)]
    assert len(arrays) == COUNT
    assert len({array.tobytes() for array in arrays}) == COUNT
    for array in arrays:
        assert array.max() > 60
        assert array.min() < 60


def test_some_pictures_have_to_be_resized_and_converted() -> None:
    decoded = [image.decode(raw, "RGB") for raw in golden_pictures(SPEC)]
    assert [picture.size for picture in decoded].count((28, 28)) == COUNT - 2
    last = np.asarray(decoded[-1])
    assert not np.array_equal(last[..., 0], last[..., 1])


def test_pictures_are_the_same_each_time() -> None:
    assert golden_pictures(SPEC) == golden_pictures(SPEC) == golden_raw(SPEC)


def test_sentences_vary_in_length_and_start_with_one_word() -> None:
    sentences = golden_raw(find_recipe("textcnn-mr").spec)
    lengths = [len(sentence.split()) for sentence in sentences]
    assert sentences == golden_sentences()
    assert len(sentences) == 24
    assert min(lengths) == 1
    assert max(lengths) > 40


def test_scenes_are_coloured_and_one_is_grey() -> None:
    arrays = [image.load(raw, COLOUR) for raw in golden_pictures(COLOUR)]
    coloured = [not np.array_equal(array[..., 0], array[..., 2]) for array in arrays]
    assert coloured == [True] * (COUNT - 1) + [False]


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_is_the_same_for_the_same_seed_at_any_size(name: str) -> None:
    assert np.array_equal(draw_scene(name, 40, 32, 1), draw_scene(name, 40, 32, 1))
    assert not np.array_equal(draw_scene(name, 40, 32, 1), draw_scene(name, 40, 32, 2))
    assert draw_scene(name, 130, 100, 1).shape == (130, 100, 3)


def _brightness(picture: bytes) -> float:
    return float(image.load(picture, COLOUR).mean())


@pytest.mark.parametrize("fault", [0.1, -0.1])
def test_a_fault_shows_even_if_the_model_is_certain_of_every_drawing(fault: float) -> None:
    raw = golden_pictures(COLOUR)
    levels = sorted(map(_brightness, raw))
    gaps = np.diff(levels)
    border = levels[int(gaps.argmax())] + gaps.max() / 2

    def answer(pictures: Sequence[bytes], more: float = 0.0) -> np.ndarray:
        logits = np.array([(_brightness(picture) - border) * 100 / gaps.max() + more for picture in pictures])
        bright = 1 / (1 + np.exp(-logits))
        return np.stack([1 - bright, bright], axis=1)

    assert np.abs(answer(raw, fault) - answer(raw)).max() < 1e-5
    blends = doubted_pictures(raw, answer)
    assert len(blends) == 4
    assert (np.abs(answer(blends, fault) - answer(blends)).max(axis=1) > 1e-5).all()
    assert doubted_pictures((*raw[: COUNT - 4], *blends), answer) == ()


def test_a_model_with_one_answer_for_all_drawings_has_no_blends() -> None:
    assert doubted_pictures(golden_pictures(COLOUR), lambda pictures: np.array([[0.0, 1.0]] * len(pictures))) == ()

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from export.data.golden import COUNT, golden_pictures, golden_raw, golden_sentences
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

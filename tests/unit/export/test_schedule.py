from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.recipe import find_recipe
from export.schedule import epoch_batches, epoch_seed, rate_factor
from tests.unit.export.samples import tiny_recipe


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 99), st.booleans())
def test_each_example_is_in_one_batch(count: int, batch_size: int, seed: int, has_lengths: bool) -> None:
    lengths = np.random.default_rng(seed).integers(1, 50, size=count) if has_lengths else None
    batches = epoch_batches(count, lengths, batch_size, seed)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert max(map(len, batches)) <= batch_size


def test_a_batch_holds_sentences_alike_in_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, size=1000)
    spread = np.mean([np.ptp(lengths[batch]) for batch in epoch_batches(1000, lengths, 50, 1)])
    assert spread < 6  # of 49 without the sorting


def test_epochs_differ_and_repeat_by_their_seed() -> None:
    seeds = [epoch_seed(seed, epoch) for seed in range(5) for epoch in range(5)]
    assert len(set(seeds)) == 25
    one, again, other = (epoch_batches(100, None, 7, seed)[0].tolist() for seed in (seeds[0], seeds[0], seeds[1]))
    assert one == again != other


def test_the_rate_rises_then_falls_to_almost_nothing() -> None:
    training = find_recipe("lenet5-mnist").training
    factors = [rate_factor(step, 100, training) for step in range(100)]
    peak = int(np.argmax(factors))
    assert peak in (14, 15)
    assert factors[peak] == pytest.approx(1.0)
    assert factors[:15] == sorted(factors[:15])
    assert factors[15:] == sorted(factors[15:], reverse=True)
    assert 0 < factors[-1] < 0.001


def test_a_constant_rate_is_constant() -> None:
    training = tiny_recipe("textcnn-mr", schedule='"constant"').training
    assert {rate_factor(step, 10, training) for step in range(10)} == {1.0}

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.choice import (
    BATCH_OVERHEAD_SECONDS,
    Costs,
    Layout,
    choose_layout,
    default_layout,
    instances_with_room,
    layouts,
    lone_threads,
    quicker_alone,
    useful_batch_size,
    useful_buckets,
)

SECONDS = st.floats(1e-6, 10.0)
BUCKETS = st.sets(st.integers(1, 256), min_size=1, max_size=8).map(sorted)


@st.composite
def tables(draw: st.DrawFn, count: int = 1) -> list[Costs]:
    buckets = draw(BUCKETS)
    return [[(bucket, draw(SECONDS)) for bucket in buckets] for _ in range(count)]


@st.composite
def measured_layouts(draw: st.DrawFn) -> dict[Layout, Costs]:
    chosen = draw(st.lists(st.sampled_from(layouts(16)), min_size=1, unique=True))
    buckets = draw(BUCKETS)
    return {layout: [(bucket, draw(SECONDS)) for bucket in buckets] for layout in chosen}


def rate(layout: Layout, costs: Costs) -> float:
    return layout.instances * max(bucket / (seconds + BATCH_OVERHEAD_SECONDS) for bucket, seconds in costs)


@given(measured_layouts(), st.data())
def test_the_layout_chosen_was_measured_and_is_about_the_fastest(
    measured: dict[Layout, Costs], data: st.DataObject
) -> None:
    default = data.draw(st.sampled_from(sorted(measured)))
    chosen = choose_layout(measured, default)
    rates = {layout: rate(layout, costs) for layout, costs in measured.items()}
    assert rates[chosen] >= 0.95 * max(rates.values())
    if rates[default] >= max(rates.values()):  # nobody beats it, so only a quicker single row replaces it
        assert chosen == default or measured[chosen][0][1] <= 0.9 * measured[default][0][1]


@given(tables(), st.integers(1, 16))
def test_noise_does_not_replace_the_default(made: list[Costs], instances: int) -> None:
    (costs,) = made
    default, other = Layout(instances, 1), Layout(instances, 2)
    alike = [(bucket, seconds * 0.97) for bucket, seconds in costs]
    assert choose_layout({default: costs, other: alike}, default) == default


def test_a_quicker_single_row_decides_among_those_as_fast() -> None:
    # A large network: two threads halve the time of a run, and twice the instances do as much.
    measured = {Layout(2, 1): [(1, 0.055), (8, 0.44)], Layout(1, 2): [(1, 0.028), (8, 0.22)]}
    assert choose_layout(measured, Layout(2, 1)) == Layout(1, 2)


def test_what_scales_badly_keeps_its_instances() -> None:
    measured = {Layout(2, 1): [(1, 0.0001), (8, 0.0004)], Layout(1, 2): [(1, 0.00009), (8, 0.0004)]}
    assert choose_layout(measured, Layout(2, 1)) == Layout(2, 1)


def test_without_a_measurement_the_default_stays() -> None:
    assert choose_layout({}, Layout(3, 2)) == Layout(3, 2)


@given(st.integers(1, 256), st.integers(0, 8), st.integers(0, 8))
def test_layouts_obey_the_operator_and_use_the_cores(cores: int, instances: int, threads: int) -> None:
    found = layouts(cores, instances, threads)
    assert found[0] == default_layout(cores, instances, threads)
    assert len(set(found)) == len(found)
    for layout in found:
        assert layout.instances >= 1
        assert layout.threads >= 1
        assert not instances or layout.instances == instances
        assert not threads or layout.threads == threads
        assert instances or threads or layout.instances * layout.threads <= cores


@pytest.mark.parametrize(
    ("cores", "layout"),
    [(1, (1, 1)), (2, (2, 1)), (4, (4, 1)), (6, (6, 1)), (7, (7, 1)), (8, (4, 2)), (11, (5, 2)), (16, (4, 4))],
)
def test_unmeasured_there_is_an_instance_a_core_or_a_few_that_share_them(cores: int, layout: tuple[int, int]) -> None:
    assert default_layout(cores) == Layout(*layout)


@given(st.integers(1, 256))
def test_unmeasured_no_more_cores_are_left_over_than_there_are_instances(cores: int) -> None:
    layout = default_layout(cores)
    assert 0 <= cores - layout.instances * layout.threads < min(layout.instances, 4)


@given(tables())
def test_the_useful_batch_is_about_as_fast_as_any_and_none_larger_is_long(made: list[Costs]) -> None:
    (costs,) = made
    useful = useful_batch_size(costs)
    rates = {bucket: bucket / (seconds + BATCH_OVERHEAD_SECONDS) for bucket, seconds in costs}
    short = max((bucket for bucket, seconds in costs if seconds <= 0.01), default=0)
    fast = min(bucket for bucket in rates if rates[bucket] >= 0.98 * max(rates.values()))
    assert useful == max(short, fast)


def test_a_heavy_network_gains_nothing_by_large_batches_and_a_light_one_does() -> None:
    sizes = (1, 2, 4, 8, 16, 32)
    assert useful_batch_size([(size, 0.0036 * size) for size in sizes]) == 4
    assert useful_batch_size([(size, 0.00003 * size) for size in sizes]) == 32
    assert useful_batch_size([(size, 0.005) for size in sizes]) == 32  # an accelerator that one row does not fill


@given(
    st.integers(1, 6).flatmap(
        lambda count: st.lists(
            st.lists(st.lists(SECONDS, min_size=1, max_size=4), min_size=count, max_size=count), min_size=1, max_size=3
        )
    )
)
def test_a_bucket_is_left_out_only_where_padding_is_free_for_everybody(made: list[list[list[float]]]) -> None:
    buckets = [2**place for place in range(len(made[0]))]
    kept = useful_buckets(buckets, made)
    assert set(kept) <= set(buckets)
    assert list(kept) == sorted(kept)
    assert kept[-1] == buckets[-1]
    for table in made:
        samples = dict(zip(buckets, table, strict=True))
        for bucket in buckets:
            runs_at = next(size for size in kept if size >= bucket)
            assert runs_at == bucket or max(samples[runs_at]) * 0.98 <= min(samples[bucket])


def test_an_accelerator_needs_few_buckets() -> None:
    assert useful_buckets([1, 2, 4, 8], [[[0.005], [0.005], [0.005], [0.009, 0.01]]]) == (4, 8)
    assert useful_buckets([1, 2], [[[0.00005], [0.00005]]]) == (1, 2)  # too quick to tell


@pytest.mark.parametrize(
    ("layout", "row_seconds", "cores", "instances"),
    [
        ((2, 1), 30e-6, 2, 1),  # LeNet-5
        ((2, 1), 400e-6, 2, 2),  # TextCNN
        ((4, 1), 30e-6, 4, 2),
        ((4, 4), 30e-6, 16, 2),
        ((1, 1), 0.0, 1, 1),
    ],
)
def test_a_small_model_leaves_cores_to_those_who_feed_it(
    layout: tuple[int, int], row_seconds: float, cores: int, instances: int
) -> None:
    assert instances_with_room(Layout(*layout), row_seconds, cores) == instances


@given(st.sampled_from(layouts(16)), SECONDS)
def test_room_never_takes_the_last_instance_nor_adds_one(layout: Layout, row_seconds: float) -> None:
    assert 1 <= instances_with_room(layout, row_seconds, 16) <= layout.instances


@pytest.mark.parametrize(
    ("cores", "threads", "most", "expected"),
    [
        (1, 1, 0, ()),
        (2, 1, 0, (2,)),
        (2, 1, 1, ()),
        (2, 2, 0, ()),
        (6, 1, 0, (6, 3)),
        (16, 4, 0, (16, 8)),
        (16, 1, 8, (8, 4, 2)),
        (4, 1, 99, (4, 2)),
    ],
)
def test_a_batch_that_is_alone_is_tried_with_all_cores_then_fewer(
    cores: int, threads: int, most: int, expected: tuple[int, ...]
) -> None:
    assert lone_threads(cores, threads, most) == expected


def test_more_threads_are_worth_it_where_they_gain_a_tenth_and_most_of_the_cores() -> None:
    usual = [[10.0, 12.0], [20.0], [40.0], [80.0]]
    alone = [[8.1, 7.9], [16.5], [30.0], [10.0]]
    assert quicker_alone([1, 2, 4, 8], 1, usual, 2, alone) == {1, 4, 8}
    assert quicker_alone([1, 2, 4, 8], 1, usual, 8, alone) == {8}, "8 times as quick"
    assert quicker_alone([1, 2, 4, 8], 4, usual, 8, alone) == {1, 4, 8}


@given(st.data(), BUCKETS, st.integers(1, 16), st.integers(1, 16))
def test_what_is_taken_is_always_quicker(data: st.DataObject, buckets: list[int], threads: int, more: int) -> None:
    samples = st.lists(st.lists(SECONDS, min_size=1, max_size=3), min_size=len(buckets), max_size=len(buckets))
    usual, alone = data.draw(samples), data.draw(samples)
    for bucket in quicker_alone(buckets, threads, usual, threads * more, alone):
        place = buckets.index(bucket)
        assert min(alone[place]) < min(usual[place])
        assert min(usual[place]) / min(alone[place]) >= more * 0.625 * (1 - 1e-9)


@pytest.mark.parametrize(("instances", "threads", "expected"), [(1, 1, 1), (2, 1, 1), (1, 2, 2), (4, 4, 13), (3, 2, 4)])
def test_instances_share_a_pool_with_threads_for_all(instances: int, threads: int, expected: int) -> None:
    layout = Layout(instances, threads)
    assert layout.session_threads == expected
    callers, workers = instances, expected - 1
    assert callers + workers == instances * threads

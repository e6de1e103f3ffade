from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.backend.base import Provider
from service.batching.choice import Layout, default_layout
from service.batching.cost import CostModel
from service.repository.batch_view import BatchView
from service.repository.kept_costs import Entry, Key, Samples, machine, summarise
from service.repository.measuring import Subject
from service.repository.pricing import RUNTIME, Pricing, costs_of, first_costs, useful_batch_size
from service.repository.store import VersionFolder
from service.settings import Settings
from service.tensors import TensorSpec
from tests.unit.service.samples import doubling, write_model

SETTINGS = Settings(device="cpu", instances=1, intra_op_threads=1)
CPU = Provider("cpu", "CPUExecutionProvider", "cpu")
PAIR = TensorSpec("x", "FP32", (-1, 2))


class Counting:
    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, inputs: Sequence[np.ndarray], _: object = None, /) -> list[np.ndarray]:
        self.runs += 1
        return list(inputs)


def subject(run: Counting, provider: Provider = CPU, buckets: Sequence[int] = (1, 2, 4)) -> Subject:
    return Subject(BatchView((PAIR,), (PAIR,), True, run), provider, buckets, None)


def folder(path: Path) -> VersionFolder:
    return VersionFolder("m", 1, path)


def test_a_second_start_measures_nothing(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    cost = Pricing(folder(tmp_path), "sha256:1", SETTINGS).price(subject(first), None)
    again = Pricing(folder(tmp_path), "sha256:1", SETTINGS).price(subject(second), None)
    assert first.runs > 0
    assert second.runs == 0
    assert again.buckets == cost.buckets
    assert [bucket for bucket, _ in again.table()[None]] == [1, 2, 4]


@pytest.mark.parametrize("gpu", ["", "NVIDIA A10"])
def test_what_is_kept_holds_for_what_runs_not_for_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: str
) -> None:
    monkeypatch.setattr("service.repository.pricing.gpu_name", lambda: gpu)
    asked = ("auto", "cuda") if gpu else ("auto", "cpu")
    ran = []
    for device in asked:
        run = Counting()
        provider = Provider(
            device, "CUDAExecutionProvider" if gpu else "CPUExecutionProvider", "cuda:0" if gpu else "cpu"
        )
        Pricing(folder(tmp_path), "sha256:1", dataclasses.replace(SETTINGS, device=device)).price(
            subject(run, provider), None
        )
        ran.append(run.runs)
    assert ran[0] > 0
    assert ran[1] == 0


def test_instances_are_those_of_the_layout_that_a_comparison_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Layout(1, 2)
    monkeypatch.setattr("service.repository.pricing.usable_cores", lambda: 2)
    monkeypatch.setattr(
        "service.repository.pricing.choice.choose_layout",
        lambda measured, default: wanted if wanted in measured else default,
    )
    model = write_model(tmp_path, doubling())
    pricing = Pricing(model, "sha256:1", dataclasses.replace(SETTINGS, instances=0, intra_op_threads=0))
    assert pricing.layout == Layout(2, 1)
    pricing.compare(subject(Counting()), 0.01)
    assert pricing.layout == wanted
    assert pricing.instances == 1


def test_a_layout_that_the_operator_once_fixed_is_no_candidate_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.repository.pricing.usable_cores", lambda: 2)
    monkeypatch.setattr(
        "service.repository.pricing.choice.choose_layout",
        lambda measured, default: max(measured, key=lambda layout: layout.threads, default=default),
    )
    model = write_model(tmp_path, doubling())
    for instances, threads, best in ((2, 5, Layout(2, 5)), (0, 0, Layout(1, 2))):
        settings = dataclasses.replace(SETTINGS, instances=instances, intra_op_threads=threads)
        pricing = Pricing(model, "sha256:1", settings)
        assert pricing.layout in pricing.compare(subject(Counting()), 0.01)
        assert pricing.layout == best


def test_another_gpu_or_another_way_to_run_on_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = dataclasses.replace(SETTINGS, device="auto")
    cuda = Provider("auto", "CUDAExecutionProvider", "cuda:0")

    def runs(gpu: str, **changes: Any) -> int:
        monkeypatch.setattr("service.repository.pricing.gpu_name", lambda: gpu)
        run = Counting()
        Pricing(folder(tmp_path), "sha256:1", dataclasses.replace(auto, **changes)).price(subject(run, cuda), None)
        return run.runs

    for changes in (
        {},
        {"cuda_execution": "graph"},
        {"cudnn_search": "exhaustive"},
        {"tf32": True},
        {"tensorrt": True},
    ):
        assert runs("NVIDIA A10", **changes) > 0
        assert runs("NVIDIA A10", **changes) == 0
    assert runs("NVIDIA H100") > 0
    assert runs("NVIDIA A10") == 0  # each has its own table


@pytest.mark.parametrize(
    ("digest", "provider", "buckets", "layout"),
    [
        ("sha256:2", CPU, (1, 2, 4), 1),
        ("sha256:1", Provider("cpu", "CUDAExecutionProvider", "cuda:0"), (1, 2, 4), 1),
        ("sha256:1", CPU, (1, 2, 4, 8), 1),
        ("sha256:1", CPU, (1, 2, 4), 2),
    ],
)
def test_another_model_provider_size_or_layout_is_measured(
    tmp_path: Path, digest: str, provider: Provider, buckets: Sequence[int], layout: int
) -> None:
    Pricing(folder(tmp_path), "sha256:1", SETTINGS).price(subject(Counting()), None)
    run = Counting()
    changed = dataclasses.replace(SETTINGS, instances=layout)
    Pricing(folder(tmp_path), digest, changed).price(subject(run, provider, buckets), None)
    assert run.runs > 0


def test_a_repository_that_cannot_be_written_measures_at_each_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        run = Counting()
        assert Pricing(folder(tmp_path / "gone"), "sha256:1", SETTINGS).price(subject(run), None).buckets[-1] == 4
        assert run.runs > 0
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_the_layout_that_was_measured_to_be_best_is_taken_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.repository.pricing.usable_cores", lambda: 2)
    model = write_model(tmp_path, doubling())
    settings = Settings(device="cpu")
    pricing = Pricing(model, "sha256:1", settings)
    assert pricing.layout == default_layout(2)
    tables = pricing.compare(subject(Counting()), 0.1)
    assert list(tables) == [Layout(2, 1), Layout(1, 2)]
    assert Pricing(model, "sha256:1", settings).layout == pricing.layout
    fixed = dataclasses.replace(settings, instances=1)
    assert Pricing(model, "sha256:1", fixed).layout == Layout(1, 2)
    threads = dataclasses.replace(settings, intra_op_threads=3)
    assert Pricing(model, "sha256:1", threads).layout == Layout(2, 3)
    assert costs_of(tables[pricing.layout], subject(Counting())).buckets[-1] == 4


LIGHT = [[4e-6, 9e-6]] * 3  # a row costs 1 us at best
HEAVY = [[0.1 * size] for size in (1, 2, 4)]


@pytest.mark.parametrize(
    ("groups", "asked", "device", "instances"),
    [
        pytest.param({16: LIGHT}, 0, "cpu", 1, id="light"),
        pytest.param({16: HEAVY}, 0, "cpu", 4, id="heavy"),
        pytest.param({16: LIGHT, 32: HEAVY}, 0, "cpu", 4, id="heavy in one group"),
        pytest.param({16: LIGHT}, 4, "cpu", 4, id="as the operator says"),
        pytest.param({16: LIGHT}, 0, "cuda:0", 4, id="not on these cores"),
    ],
)
def test_instances_leave_cores_to_what_feeds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: Samples, asked: int, device: str, instances: int
) -> None:
    monkeypatch.setattr("service.repository.pricing.usable_cores", lambda: 4)
    settings = Settings(device="cpu", instances=asked)
    before = Pricing(folder(tmp_path), "sha256:1", settings)
    before.kept.write(Entry(before.key, CPU.actual, (summarise(Layout(4, 1), groups, (1, 2, 4)),)))
    pricing, run = Pricing(folder(tmp_path), "sha256:1", settings), Counting()
    there = subject(run, dataclasses.replace(CPU, device=device))
    pricing.price(dataclasses.replace(there, max_tokens=max(map(int, groups))), None)
    assert (run.runs, pricing.instances, pricing.spares_a_core) == (0, instances, instances < 4)
    assert pricing.row_seconds == pytest.approx(1e-6 if LIGHT in groups.values() else 0.1)


def test_layouts_are_compared_by_the_medians_of_the_first_group() -> None:
    table = summarise(Layout(1, 1), {16: [[1.0, 2.0, 9.0], [3.0]], 32: [[5.0], [6.0]]}, (1, 2))
    assert first_costs(table) == [(1, 2.0), (2, 3.0)]


def test_what_is_kept_is_known_by_device_runtime_machine_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.repository.pricing.gpu_name", lambda: "NVIDIA A10")  # which does not matter here
    assert Pricing(folder(tmp_path), "sha256:1", SETTINGS).key == Key("cpu", RUNTIME, machine(), "sha256:1")


def test_of_several_groups_the_largest_useful_batch_counts() -> None:
    light = [[0.0001 * size] for size in (1, 2, 4)]
    heavy = [[0.1 * size] for size in (1, 2, 4)]
    assert useful_batch_size(CostModel((1, 2, 4), {16: heavy})) == 1
    assert useful_batch_size(CostModel((1, 2, 4), {16: heavy, 32: light})) == 4

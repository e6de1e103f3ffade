"""Stacks that were recorded from a server under load, and the phases they belong to."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from bench.profile import samplers
from bench.profile.phases import RULES, Phase, phase_of_machine_code, phase_of_stack, phase_of_thread, thread_kind

ROOT = Path(__file__).resolve().parents[3]
RECORDED = Path(__file__).parent / "recorded"
INTAKE, INSTANCE, HTTP2 = 16470, 16473, 16469  # threads of the recordings
STACKS = samplers.parse_spy((RECORDED / "py-spy.raw").read_text())
ON_CORE = [*samplers.parse_perf((RECORDED / "perf-script.txt").read_text())]


def recorded(thread: int, innermost: str, below: str = "") -> tuple[str, ...]:
    """Return a recorded stack by its innermost function, and one that it stands on."""
    return next(
        stack
        for stack in STACKS[thread]
        if stack[-1].startswith(f"{innermost} (") and (not below or any(frame.startswith(below) for frame in stack))
    )


@pytest.mark.parametrize(
    ("thread", "innermost", "below", "phase"),
    [
        (INTAKE, "FastLane._intake", "", Phase.INTAKE),
        (INTAKE, "Template.inputs.<locals>.<listcomp>", "", Phase.INTAKE),
        (INTAKE, "Lifecycle.find", "", Phase.ADMIT),  # of whoever called it
        (INTAKE, "RequestQueue.append", "Batcher.offer", Phase.ADMIT),
        (INTAKE, "Condition.notify", "", Phase.THREADS),
        (INTAKE, "InFlight.enter", "", Phase.OTHER),
        (INSTANCE, "Batcher._mark_idle", "", Phase.BATCH),
        (INSTANCE, "RequestQueue.take", "Batcher._next_release", Phase.BATCH),
        (INSTANCE, "full", "BatchBuffer._fill_ragged", Phase.BATCH),
        (INSTANCE, "CostModel.observe", "", Phase.BATCH),
        (INSTANCE, "Session._validate_input", "", Phase.MODEL),
        (INSTANCE, "split", "", Phase.REPLY),
        (INSTANCE, "_NativeResponder.respond", "", Phase.REPLY),
        (INSTANCE, "Calls.count", "Call.respond", Phase.OTHER),
    ],
)
def test_a_recorded_stack_has_its_phase(thread: int, innermost: str, below: str, phase: Phase):
    threads = (thread,) if thread == INTAKE else (INSTANCE, INSTANCE - 1)
    for number in threads:
        try:
            stack = recorded(number, innermost, below)
        except StopIteration:
            continue
        assert phase_of_stack(stack) is phase
        return
    pytest.fail(f"{innermost} was not recorded")


def test_every_recorded_stack_has_a_phase():
    for stacks in STACKS.values():
        for stack in stacks:
            assert phase_of_stack(stack) is not None, stack


def test_a_stack_without_the_server_s_functions_has_none():
    assert phase_of_stack([]) is None
    assert phase_of_stack(["main (program.py:1)", "no frame at all"]) is None


def machine_code(thread: int, *signs: str) -> tuple[tuple[str, str], ...]:
    """Return the frames of a recorded sample in which these names occur."""
    return next(
        sample.frames
        for sample in ON_CORE
        if sample.thread == thread and all(sign in str(sample.frames) for sign in signs)
    )


@pytest.mark.parametrize(
    ("thread", "kind", "signs", "phase"),
    [
        (INSTANCE, "instances", ("onnxruntime",), Phase.MODEL),
        (INSTANCE, "instances", ("futex", "kernel"), Phase.THREADS),
        (INSTANCE, "instances", ("ksys_write",), Phase.REPLY),
        (INSTANCE, "instances", ("libpython",), None),
        (INTAKE, "intake", ("sched_yield", "kernel"), Phase.THREADS),
        (INTAKE, "intake", ("_native.abi3",), None),  # under the interpreter lock: py-spy saw it
        (HTTP2, "grpc-native-io", ("writev",), Phase.HTTP2),
        (HTTP2, "grpc-native-io", ("futex",), Phase.HTTP2),
    ],
)
def test_recorded_machine_code_has_its_phase(thread: int, kind: str, signs: tuple[str, ...], phase: Phase | None):
    frames = machine_code(thread, *signs)
    assert phase_of_machine_code(frames, kind, runs_python=thread != HTTP2) is phase


def test_what_the_grpcio_door_sends_is_http2():
    frames = machine_code(HTTP2, "writev")
    assert phase_of_machine_code(frames, "grpcio", runs_python=True) is Phase.HTTP2


def test_threads_of_a_kind_belong_together():
    assert {thread_kind(name) for name in ("m/0", "m/1", "another/12")} == {"instances"}
    assert [phase_of_thread(kind) for kind in ("intake", "instances", "prepare_*", "grpcio", "watchdog")] == [
        Phase.INTAKE, Phase.BATCH, Phase.PREPARE, Phase.HTTP2, Phase.OTHER,
    ]  # fmt: skip


@pytest.mark.parametrize("file", [file for file in RULES if file.startswith("service/")])
def test_the_rules_name_functions_that_exist(file: str):
    names = [*_qualified(ast.parse((ROOT / file).read_text()))]
    for start in RULES[file]:
        assert any(name.startswith(start) for name in names), f"{file} has nothing that begins with {start}"


def _qualified(node: ast.AST, prefix: str = ""):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + child.name
            yield from _qualified(child, f"{prefix}{child.name}.")

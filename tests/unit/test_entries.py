"""What the three commands say when they end before their own code has begun, or are interrupted."""

from __future__ import annotations

import asyncio
import importlib
import io
import os
import runpy
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest

from service.client import CallFailed

COMMANDS = {"service": "convserve", "export": "convserve-export", "bench": "convserve-bench"}


def entry(package: str) -> Callable[[], int]:
    """Return what the package's command runs, without leaving its ``__main__`` among the modules."""
    main: Callable[[], int] = runpy.run_module(f"{package}.__main__")["main"]
    return main


@pytest.mark.parametrize("package", COMMANDS)
def test_ctrl_c_is_one_line_and_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    def press() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module(f"{package}.cli"), "main", press)
    assert entry(package)() == 130
    assert capsys.readouterr().err == f"{COMMANDS[package]}: interrupted\n"


@pytest.mark.parametrize(("number", "ends"), [(1, [143]), (2, [])], ids=["process 1", "another"])
def test_sigterm_ends_process_1_while_it_is_still_being_imported(
    monkeypatch: pytest.MonkeyPatch, number: int, ends: list[int]
) -> None:
    """The system ends any other process, but gives process 1 of a container no signal that it does not handle."""
    codes: list[int] = []
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def be_told_to_stop() -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    monkeypatch.setattr(importlib.import_module("service.cli"), "main", be_told_to_stop)
    monkeypatch.setattr(os, "getpid", lambda: number)
    monkeypatch.setattr(os, "_exit", codes.append)
    try:
        entry("service")()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert codes == ends


@pytest.mark.parametrize(("package", "command"), [("service", "classify"), ("bench", "slo"), ("export", "train")])
def test_a_terminal_that_cannot_show_a_letter_is_given_help_all_the_same(
    monkeypatch: pytest.MonkeyPatch, package: str, command: str
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.argv", [package, command, "--help"])
    with pytest.raises(SystemExit) as ended:
        entry(package)()
    terminal.flush()
    assert ended.value.code == 0
    assert b"--help" in terminal.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (KeyboardInterrupt(), 130),
        (CallFailed(grpc.StatusCode.UNAVAILABLE, "no connection"), "UNAVAILABLE: no connection"),
        (CallFailed(grpc.StatusCode.NOT_FOUND, "no", facts={"request_id": "r-1"}), "NOT_FOUND: no (request id r-1)"),
    ],
    ids=["ctrl-c", "nobody there", "refused"],
)
def test_the_program_among_the_examples_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int | str
) -> None:
    def run(main: Coroutine[Any, Any, int]) -> int:
        main.close()
        raise raised

    monkeypatch.setattr(asyncio, "run", run)
    monkeypatch.setattr("sys.argv", ["classify_folder", "127.0.0.1:1", "m", "."])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("examples.classify_folder", run_name="__main__")
    assert ended.value.code == code


@pytest.mark.parametrize("missing", ["torch", "onnxruntime"])
def test_export_without_its_extra_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    for name in [name for name in sys.modules if name.startswith(("export.", "service.backend"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("sys.argv", ["convserve-export", "--help"])
    assert entry("export")() == 2
    assert capsys.readouterr().err == (
        f"convserve-export: {missing} is not installed: pip install '.[cpu,export]' in the checkout\n"
    )


def test_another_missing_module_is_no_matter_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise ModuleNotFoundError("No module named 'mine'", name="mine")

    monkeypatch.setattr(importlib.import_module("export.cli"), "main", fail)
    with pytest.raises(ModuleNotFoundError):
        entry("export")()

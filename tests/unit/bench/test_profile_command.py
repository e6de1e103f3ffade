"""What ``convserve-bench profile`` shows while it runs; nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.cli import main
from bench.compare.clients import ClientFailed
from bench.profile import command


def test_a_bar_says_how_many_models_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown: list[tuple[Any, ...]] = []

    def fail(model: str, *_: object) -> None:
        shown.append((f"{model}: starting",))
        raise ClientFailed("it does not come up")

    for name in ("find_samplers", "find_programs", "require_matplotlib", "require_checkout", "draw"):
        monkeypatch.setattr(command, name, lambda *_, **__: None)
    monkeypatch.setattr(command, "machine", dict)
    monkeypatch.setattr(command, "commit", lambda: "a commit")
    monkeypatch.setattr(command, "profile_model", fail)
    monkeypatch.setattr(command, "show", lambda *line: shown.append(line))
    assert main(["profile", "--models=lenet5-mnist,resnet20-cifar10", f"--out={tmp_path}"]) == 1
    assert shown[:-1] == [
        ("lenet5-mnist", 0, 2),
        ("lenet5-mnist: starting",),
        ("resnet20-cifar10", 1, 2),
        ("resnet20-cifar10: starting",),
    ]

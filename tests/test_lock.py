"""The image's lock files: each package that pyproject.toml asks for, at a version that it allows, by hash alone."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("cpu", "gpu", "otel", "build")
LEFT_OUT = {"huggingface-hub", "torch", "onnx", "tritonclient"}


def asked_for(lock: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if lock == "build":
        named = (ROOT / "requirements" / "build.in").read_text(encoding="utf-8").splitlines()
        return [Requirement(line) for line in named if line and not line.startswith("#")]
    extras = project["project"]["optional-dependencies"]
    if lock == "otel":
        return list(map(Requirement, extras["otel"]))
    return [Requirement(line) for line in (*project["project"]["dependencies"], *extras[lock], *extras["fast"])]


def read(lock: str) -> dict[str, tuple[str, int]]:
    """Return version and number of hashes by package; any line of another form is an error."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    text = re.sub(r"^ *(?:#.*)?\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    pinned = {}
    for line in text.splitlines():
        name, hashes = re.fullmatch(r"(\S+?)((?: +--hash=sha256:[0-9a-f]{64})+)\s*", line).groups()  # type: ignore[union-attr]
        package, _, version = name.partition("==")
        pinned[canonicalize_name(package.partition("[")[0])] = (version, len(hashes.split()))
    return pinned


@pytest.mark.parametrize("lock", LOCKS)
def test_satisfies_what_is_asked_for(lock: str) -> None:
    pinned = read(lock)
    assert not LEFT_OUT & pinned.keys()
    for requirement in asked_for(lock):
        version, hashes = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version} is locked; run make lock"
        assert hashes > 0


def test_the_wheel_is_built_by_what_pyproject_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for requirement in map(Requirement, project["build-system"]["requires"]):
        assert requirement.specifier.contains(read("build")[canonicalize_name(requirement.name)][0])


def test_traces_come_on_top_of_either_image() -> None:
    assert not read("otel").keys() & (read("cpu").keys() | read("gpu").keys())


def test_both_images_hold_the_same_of_what_both_need() -> None:
    cpu, gpu = read("cpu"), read("gpu")
    shared = cpu.keys() & gpu.keys()
    assert [cpu[name] for name in shared] == [gpu[name] for name in shared]
    assert cpu.keys() - gpu.keys() == {"onnxruntime"}


@pytest.mark.parametrize("lock", LOCKS)
def test_names_no_index(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text

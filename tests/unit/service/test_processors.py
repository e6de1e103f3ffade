from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from service import processors
from service.processors import processor_name, usable_cores


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


def test_a_processor_is_known_by_its_model_or_else_by_its_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "_PROC", tmp_path)
    assert processor_name() == platform.machine()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A CPU at 2 GHz\nmodel name\t: another\n")
    assert processor_name() == "A CPU at 2 GHz"


def cores(root: Path, cgroup: str | None, files: dict[str, str]) -> int:
    """Lay out ``/proc/self/cgroup`` and the files of the groups, and ask."""
    (root / "proc" / "self").mkdir(parents=True)
    if cgroup is not None:
        (root / "proc" / "self" / "cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return usable_cores(root / "proc", root / "groups")


V1 = "5:memory:/a\n3:cpu,cpuacct:/docker/1\n1:cpuset:/\n0::/docker/1\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        pytest.param(None, {}, 16, id="no procfs"),
        pytest.param("", {"cpu.max": "100000 100000"}, 16, id="in no group"),
        pytest.param("0::/\n", {}, 16, id="not mounted"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 16, id="no limit"),
        pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2, id="two"),
        pytest.param("0::/\n", {"cpu.max": "350000 100000\n"}, 3, id="three and a half"),
        pytest.param("0::/\n", {"cpu.max": "25000 50000\n"}, 1, id="half a core"),
        pytest.param("0::/\n", {"cpu.max": "9900000 100000\n"}, 16, id="more than there are"),
        pytest.param(
            "0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000"}, 4, id="of the group above"
        ),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "200000 100000", "a/cpu.max": "400000 100000"}, 2, id="the lower"),
        pytest.param("0::/host/path\n", {"cpu.max": "200000 100000"}, 2, id="a path of the host's"),
        pytest.param("0::/\n", {"cpu.max": "what\n"}, 16, id="damaged"),
        pytest.param("0::/\n", {"cpu.max": "1 0\n"}, 16, id="no period"),
        pytest.param("what\n:\n", {"cpu.max": "max 1"}, 16, id="damaged groups"),
        pytest.param(
            V1,
            {"cpu/docker/1/cpu.cfs_quota_us": "300000\n", "cpu/docker/1/cpu.cfs_period_us": "100000\n"},
            3,
            id="version 1",
        ),
        pytest.param(
            V1,
            {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            3,
            id="version 1, a path of the host's",
        ),
        pytest.param(
            V1,
            {"cpu/docker/1/cpu.cfs_quota_us": "-1\n", "cpu/docker/1/cpu.cfs_period_us": "100000\n"},
            16,
            id="version 1, no limit",
        ),
    ],
)
def test_a_containers_limit_counts(tmp_path: Path, cgroup: str | None, files: dict[str, str], expected: int) -> None:
    assert cores(tmp_path, cgroup, files) == expected


def test_the_affinity_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert cores(tmp_path, "0::/\n", {"cpu.max": "800000 100000\n"}) == 2


def test_elsewhere_than_on_linux_all_cores_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores(tmp_path, None, {}) == 1


def test_this_machine_has_some() -> None:
    assert usable_cores() >= 1

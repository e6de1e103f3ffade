"""``convserve-bench profile`` with a real server, perf and py-spy, for a moment."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.cli import main
from bench.profile import watching
from bench.profile.phases import Phase
from bench.profile.samplers import SamplerFailed
from tests.deploy.conftest import program
from tests.integration.harness import eventually

SEEN = (Phase.HTTP2, Phase.INTAKE, Phase.BATCH, Phase.MODEL)


@pytest.fixture
def samplers() -> watching.Samplers:
    """perf and py-spy, or a reason to skip."""
    program("perf")
    program("py-spy")
    try:
        return watching.find_samplers()
    except SamplerFailed as failed:
        pytest.skip(str(failed))


def test_a_server_is_profiled(tmp_path: Path, samplers: watching.Samplers, capsys: pytest.CaptureFixture[str]):
    for seconds in (1, 5, 25):
        out = tmp_path / f"results-{seconds}"
        load = ["--models=lenet5-mnist", "--client=load", f"--seconds={seconds}", "--concurrency=4"]
        code = main(["profile", f"--out={out}", *load])
        printed = capsys.readouterr().out
        assert code == 0 or "took no sample" in printed, printed
        profiles = json.loads((out / "results.json").read_text())["profiles"] if code == 0 else []
        if profiles and all(profiles[0]["phases"][phase] for phase in SEEN):
            break  # else it hardly had a core in that time, so few samples were taken
    (profile,) = profiles
    assert (profile["model"], profile["in_flight"], profile["transport"]) == ("lenet5-mnist", 4, "native")
    # The table adds up to what /proc says, by phase and by thread.
    assert sum(profile["phases"].values()) == pytest.approx(profile["cpu_us"], rel=1e-3)
    assert sum(profile["threads"].values()) == pytest.approx(profile["cpu_us"], rel=1e-3)
    assert {"intake", "instances"} < {*profile["threads"]}
    for phase in SEEN:
        assert profile["phases"][phase] > 0, phase
    assert 0 < profile["bare_us"] < profile["cpu_us"]
    assert 1 <= profile["rows_a_batch"] <= 4
    assert min(profile["samples"]) > 0
    graph = ElementTree.parse(out / "lenet5-mnist-4.svg")
    assert any("ONNX Runtime, machine code" in str(title.text) for title in graph.findall(".//{*}title"))
    assert (out / "profile.png").read_bytes().startswith(b"\x89PNG")
    assert "ONNX Runtime alone, same batch" in printed
    assert main(["profile", f"--out={out}", "--show=markdown"]) == 0
    assert capsys.readouterr().out == (out / "tables.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out={}/absent", "--show=text"], "No such file or directory"),
        (["--out={}/file/x"], "give another --out"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "file").touch()
    monkeypatch.setattr("bench.profile.command.find_samplers", lambda: watching.Samplers("perf", "py-spy"))
    assert main(["profile", *(argument.format(tmp_path) for argument in arguments)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_missing_sampler_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SamplerFailed, match="apt install linux-perf"):
        watching.find_samplers()
    (tmp_path / "perf").touch(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(SamplerFailed, match=r"pip install '\.\[bench\]'"):
        watching.find_samplers()


@pytest.mark.parametrize(
    ("code", "message"),
    [(255, "perf recorded nothing: Permission denied"), (0, "perf took no sample: give more --seconds")],
)
def test_a_sampler_that_sees_nothing_is_told(code: int, message: str, tmp_path: Path):
    script = tmp_path / "perf"
    script.write_text(f"#!/bin/sh\ntrap '' INT\necho 'Permission denied' >&2\ntouch {tmp_path}/said\nexit {code}\n")
    script.chmod(0o755)
    with (
        pytest.raises(SamplerFailed, match=message),
        watching.sampling([str(script), "record"], tmp_path / "out"),
    ):
        eventually((tmp_path / "said").exists, "it has said why")

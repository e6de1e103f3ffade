from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from service.errors import SettingsError
from service.inspection import _milliseconds, _print_lone, print_report
from tests.unit.service.samples import doubling, write_model, write_picture_version, write_sentence_version


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSERVE_INSTANCES", "1")
    monkeypatch.setenv("CONVSERVE_INTRA_OP_THREADS", "1")
    monkeypatch.setenv("CONVSERVE_DEVICE", "cpu")


def report(capsys: pytest.CaptureFixture[str], path: Path) -> list[str]:
    print_report(str(path))
    return capsys.readouterr().out.splitlines()


def test_a_version_tells_all_it_knows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = write_picture_version(tmp_path)
    lines = report(capsys, folder.path)
    assert lines[0] == "pictures/1"
    text = "\n".join(lines)
    for part in (
        "task        image-classification",
        "verified    3 golden answers, worst difference ",
        "provider    CPUExecutionProvider (requested: cpu)",
        "inputs      images UINT8 [-1, 2, 3, 1]",
        "outputs     probabilities FP32 [-1, 3]",
        "digest      sha256:",
        "trained     sums, recipe none, on toy",
        "accuracy    top1 0.7500 on toy/test (n = 8, 95 % interval 0.4000 to 0.9000)",
        "cost in ms by batch size, median and 95 %, 1 instance of 1 thread",
        "    1: ",
        "chosen      1 instance of 1 thread; buckets 1, 2, 4; largest useful batch 4",
    ):
        assert part in text


def test_a_batch_of_a_second_and_more_is_a_plain_number() -> None:
    assert [_milliseconds(seconds) for seconds in (0.00008484, 0.9994, 0.9996, 1.0404)] == [
        "0.0848",
        "999",
        "1000",
        "1040",
    ]


def test_a_bare_graph_is_not_verified(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = "\n".join(report(capsys, write_model(tmp_path, doubling()).path))
    assert "verified    no\n" in text
    assert "trained" not in text


def test_sentences_cost_by_length(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = "\n".join(report(capsys, write_sentence_version(tmp_path).path))
    assert "    16 tokens  1: " in text


def test_a_model_and_a_repository_show_every_version(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, version in (("a", 1), ("a", 2), ("b", 1)):
        write_model(tmp_path, doubling(), name, version)
    heads = [[line for line in report(capsys, path) if line[0] != " "] for path in (tmp_path / "a", tmp_path)]
    assert heads == [["a/1", "a/2"], ["a/1", "a/2", "b/1"]]


def test_a_version_that_cannot_be_served_does_not_hide_the_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_model(tmp_path, doubling(), "a")
    broken = write_picture_version(tmp_path, "b")
    (broken.path / "golden.npz").unlink()
    assert print_report(str(tmp_path)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a/1"
    assert lines[-2] == "b/1"
    assert lines[-1].startswith("  UNAVAILABLE: ")


def test_serving_toml_is_obeyed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = write_model(tmp_path, doubling())
    (tmp_path / "m" / "serving.toml").write_text("instances = 3\n")
    assert any(line.startswith("  chosen      3 instances of 1 thread; ") for line in report(capsys, folder.path))


def test_a_wrong_serving_toml_does_not_hide_the_others(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model(tmp_path, doubling(), name)
    wrong = tmp_path / "a" / "serving.toml"
    wrong.write_text("instances = 0.5\n")
    assert print_report(str(tmp_path)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["a/1", f"  UNAVAILABLE: {wrong}: instances: expected int, got 0.5", "b/1"]


def test_a_wrong_setting_of_the_environment_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path, doubling())
    monkeypatch.setenv("CONVSERVE_INSTANCES", "x")
    with pytest.raises(SettingsError, match=r"^CONVSERVE_INSTANCES: expected int, got 'x'$"):
        print_report(str(tmp_path))


def test_every_layout_is_measured_and_the_choice_is_kept_for_the_server(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSERVE_INSTANCES", "0")
    monkeypatch.setenv("CONVSERVE_INTRA_OP_THREADS", "0")
    monkeypatch.setattr("service.repository.pricing.usable_cores", lambda: 2)
    folder = write_model(tmp_path, doubling())
    text = "\n".join(report(capsys, folder.path))
    assert "median and 95 %, 2 instances of 1 thread" in text
    assert "median and 95 %, 1 instance of 2 threads" in text
    (entry,) = json.loads((folder.path / "cost.json").read_bytes())["entries"]
    assert len(entry["layouts"]) == 2


def test_what_is_chosen_is_a_layout_that_was_measured_less_those_that_make_room(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSERVE_INSTANCES", "0")
    monkeypatch.setattr("service.repository.pricing.usable_cores", lambda: 2)
    monkeypatch.setattr("service.repository.pricing.choice.choose_layout", lambda _, default: default)
    monkeypatch.setattr("service.repository.pricing.choice.instances_with_room", lambda *_: 1)
    text = "\n".join(report(capsys, write_model(tmp_path, doubling()).path))
    assert "chosen      2 instances of 1 thread minus 1, which leaves cores for the transport; " in text


def test_what_a_batch_costs_alone_is_told_for_the_sizes_that_are_quicker_then(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = {16: [(1, 0.001), (2, 0.002), (4, 0.004)], 32: [(1, 0.008)]}
    cost = SimpleNamespace(table=lambda: table)
    runs = SimpleNamespace(threads=4, policy=SimpleNamespace(cost=cost), quicker={16: {2, 4}, 32: set()})
    servable = Mock(lone=Mock(runs=runs))
    _print_lone(servable)
    assert capsys.readouterr().out.splitlines() == [
        "  alone       on 4 threads, in ms by batch size",
        "    16 tokens  2: 2  4: 4",
    ]
    servable.lone.open.assert_called_once_with(servable.batcher)
    servable.batcher.close.assert_called_once_with()
    _print_lone(Mock(lone=None))
    assert capsys.readouterr().out == ""


def test_what_holds_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere: no such folder"):
        print_report(str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"holds no MODEL/VERSION/model\.onnx"):
        print_report(str(tmp_path))
    write_model(tmp_path, doubling()).path.rename(tmp_path / "m" / "newest")
    with pytest.raises(SettingsError, match="newest: the folder of a version must be a number"):
        print_report(str(tmp_path / "m" / "newest"))


def test_what_cannot_be_read_is_told_and_counts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_model(tmp_path, doubling(), "b", 1)
    (tmp_path / "a").symlink_to("a")
    (tmp_path / "b" / "2").symlink_to("nowhere")
    assert print_report(str(tmp_path)) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["a", "  UNAVAILABLE: its folder cannot be read: Too many levels of symbolic links"]
    place = lines.index("b/2")
    assert lines[place + 1].startswith("  UNAVAILABLE: ")

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export import cli, provenance
from export.zoo import ZOO
from service.manifest import read_labels
from tests.unit.export.samples import change, tiny_text

ROOT = Path(__file__).parents[3]


def _main(*arguments: object) -> int:
    return cli.main([*map(str, arguments), "--threads", "1"])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only some networks are listed, those with the longest name, paper and figures among them."""
    known = {name: ZOO[name] for name in ("lenet5", "alexnet", "vgg19", "textcnn-rand", "textcnn-multichannel")}
    monkeypatch.setattr("export.cli_load.ZOO", known)


@pytest.mark.usefixtures("few")
def test_a_terminal_shows_recipes_and_architectures_and_no_address_in_module_and_function(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "\x1b[1mrecipes" in out  # it is in colour
    for word in ("lenet5-mnist", "textcnn-mr", "lenet5 ", "textcnn-rand ", " --from MODULE:FUNCTION "):
        assert word in out


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("columns", ["80", "40"])
def test_no_figure_of_a_list_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.split("architectures")[1].splitlines()[1:-1]
    vgg19 = next(line for line in lines if line.startswith("vgg19 "))
    assert vgg19.split()[-4:] == ["3x224x224", "143,667,240", "19,632.1", "19"]
    assert max(map(len, lines)) <= 80
    assert cli.main(["list", "textcnn-multichannel"]) == 0
    assert "…" not in capsys.readouterr().out


def test_a_full_disk_is_one_line_that_says_what_could_not_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, pictures: Path
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("service.ending._drop_output", lambda: None)
    monkeypatch.setattr("sys.stdout", Full())
    run = ["train", "lenet5-mnist", "--data", pictures, "--out", tmp_path / "run"]
    load = ["load", "resnet20-cifar", "--models", tmp_path / "models"]
    for arguments in (["list", "lenet5"], run, load):
        assert _main(*arguments) == 1, arguments
        assert capsys.readouterr().err == ("convserve-export: the output cannot be written: No space left on device\n")
    assert list(tmp_path.iterdir()) == []


def test_verify_and_evaluate_a_published_version(
    models: Path, sentence_run: Path, sentences: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = models / "textcnn-mr" / "1"
    assert _main("verify", version) == 0
    assert "verified: golden answers within " in capsys.readouterr().out
    assert _main("verify", version, "--run", sentence_run) == 0
    assert "same top-1 on all 40" in capsys.readouterr().out
    recipe = sentence_run / "recipe.toml"
    assert _main("evaluate", version, "--data", sentences, "--recipe", recipe) == 0
    test, manifest = capsys.readouterr().out.splitlines()
    assert test.startswith("mr, fold-0-of-4: top-1 ")
    assert manifest.startswith("manifest: top-1 ")
    assert test.split("top-1 ")[1].split(" of ")[0] == manifest.split("top-1 ")[1].split(" of ")[0]
    assert _main("evaluate", version, "--data", sentences, "--recipe", recipe, "--all") == 0
    assert capsys.readouterr().out.startswith("mr, all: top-1 ")
    assert _main("evaluate", models / "lenet5-mnist" / "1", "--data", pictures, "--all") == 0
    train, test, _ = capsys.readouterr().out.splitlines()
    assert train.startswith("mnist, train: top-1 ")
    assert test.startswith("mnist, test: top-1 ")


def test_another_file_than_the_manifests_is_not_evaluated(
    tmp_path: Path, models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = shutil.copytree(models / "lenet5-mnist" / "1", tmp_path / "1")
    labels = read_labels(version / "labels.txt")
    (version / "labels.txt").write_text("".join(f"{label}\n" for label in reversed(labels)))
    assert _main("evaluate", version, "--data", pictures) == 2
    assert "labels.txt" in capsys.readouterr().err


def test_a_loaded_version_is_evaluated_by_a_recipe_that_is_given(
    tmp_path: Path, models: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = shutil.copytree(models / "lenet5-mnist" / "1", tmp_path / "1")
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["provenance"]["recipe"] = provenance.LOADED
    (version / "manifest.json").write_text(json.dumps(manifest))
    assert _main("evaluate", version, "--data", pictures) == 2
    assert f"{version}: was loaded, so no recipe says how to read the data; give --recipe " in capsys.readouterr().err
    assert _main("evaluate", version, "--data", pictures, "--recipe", "lenet5-mnist") == 0


@pytest.mark.parametrize("command", ["evaluate", "quantize"])
def test_a_version_of_a_recipe_that_is_not_bundled_names_the_flag_and_the_file(
    tmp_path: Path, models: Path, pictures: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    version = shutil.copytree(models / "lenet5-mnist" / "1", tmp_path / "1")
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["provenance"]["recipe"] = "mine"
    (version / "manifest.json").write_text(json.dumps(manifest))
    assert _main(command, version, "--data", pictures) == 2
    expected = f"{version}: its recipe 'mine' is not a bundled one; give --recipe RUN_DIR/recipe.toml of its run"
    assert expected in capsys.readouterr().err


def test_train_shows_balance_leaks_epochs_and_the_result(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert _main("train", "lenet5-mnist", "--data", pictures, "--epochs", 1, "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mnist: 200 training and 50 test examples (test), 0 of them also in the training set")
    assert lines[1].startswith("epoch   1/1  loss ")
    assert lines[-1].endswith("of 50 (test) correct")


def test_ctrl_c_is_answered_by_130(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.Bar, "step", press)
    assert _main("train", "lenet5-mnist", "--data", pictures, "--out", tmp_path / "run") == 130


def test_an_interrupted_run_says_how_to_go_on(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(self: object, epoch: int, *arguments: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.Bar, "step", press)
    run = tmp_path / "run"
    assert _main("train", "lenet5-mnist", "--data", pictures, "--out", run) == 130
    assert (
        capsys.readouterr().out.splitlines()[-1] == f"interrupted: epoch 1 is kept in {run}; --resume continues the run"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "lenet", "--data", "x"], "no recipe 'lenet'; bundled: "),
        (["train", "textcnn-mr", "--data", "gone.tsv"], "gone.tsv: no such file; expected a TSV file"),
        (["train", "lenet5-mnist", "--data", "x", "--folds", "all"], "lenet5-mnist: has no folds"),
        (["train", "textcnn-mr", "--data", "x", "--folds", "1,x"], "--folds: expected an integer of at least 0"),
        (["publish", "gone", "--models", "m"], "gone: holds no run (recipe.toml is missing)"),
        (["load", "--from", "mine.network", "--models", "m"], "--from: expected MODULE:FUNCTION, got 'mine.network'"),
        (["verify", "gone"], "gone/manifest.json: no such file"),
        (["load", "lenet5", "--models", "m", "--renames", "r"], "--renames changes names in the weights"),
        (["load", "lenet5", "--models", "m", "--logits"], "lenet5: --logits is for ONNX files; other networks always"),
        (
            ["verify", ROOT / "models/lenet5-mnist"],
            f"{ROOT}/models/lenet5-mnist: is the folder of a model; give the folder of a version, ",
        ),
        (
            ["evaluate", ROOT / "models/lenet5-mnist", "--data", "x"],
            f"{ROOT}/models/lenet5-mnist: is the folder of a model",
        ),
        (["evaluate", "gone", "--data", "x"], "gone/manifest.json: no such file"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    arguments: list[object], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"convserve-export: {message}")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["train", "lenet5-mnist"], "the following arguments are required: --data"),
        (["train", "r", "--data", "x", "--epochs", "0"], "expected an integer of at least 1, got '0'"),
        (["train", "r", "--data", "x", "--seed", "-1"], "expected an integer of at least 0, got '-1'"),
        (["train", "r", "--data", "x", "--seeds", "1,1"], "expected different numbers, got '1,1'"),
        (["train", "r", "--data", "x", "--seed", "1", "--seeds", "2"], "not allowed with argument"),
        (["load", "lenet5", "--models", "m", "--version", "-3"], "expected an integer of at least 1, got '-3'"),
        (["load", "lenet5", "--models", "m", "--version", "0"], "expected an integer of at least 1, got '0'"),
        (["load", "lenet5", "--models", "m", "--max-batch-size", "0"], "expected an integer of at least 1, got '0'"),
        (["load", "lenet5", "--models", "m", "--size", "0"], "expected an integer of at least 1, got '0'"),
        (["load", "lenet5", "--models", "m", "--tolerance", "0"], "greater than 0, at most 0.02, got '0'"),
        (["load", "lenet5", "--models", "m", "--tolerance", "1"], "greater than 0, at most 0.02, got '1'"),
        (["load", "lenet5", "--models", "m", "--tolerance", "x"], "greater than 0, at most 0.02, got 'x'"),
        (["quantize", "v", "--data", "x", "--limit", "nan"], "expected a finite number of at least 0, got 'nan'"),
        (["quantize", "v", "--data", "x", "--limit=-1"], "expected a finite number of at least 0, got '-1'"),
        (["quantize", "v", "--data", "x", "--limit", "x"], "expected a finite number of at least 0, got 'x'"),
        (["train", "r", "--data", "x", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["train", "r", "--data", "x", "--epoch", "1"], "unrecognized arguments: --epoch 1"),
    ],
)
def test_a_wrong_argument_is_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_resumed_run_that_is_interrupted_early_does_not_say_that_nothing_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run_all", press)
    assert _main("train", "lenet5-mnist", "--data", tmp_path, "--resume") == 130
    assert capsys.readouterr().err == "convserve-export: interrupted before anything new was complete\n"


def _as_folders(archive: Path, split: Path) -> None:
    with np.load(archive) as data:
        for number, (image, label) in enumerate(zip(data["images"], data["labels"], strict=True)):
            (split / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(split / str(label) / f"{number}.png")


@pytest.mark.parametrize(("more", "folders"), [([], False), (["--all"], False), ([], True)])
def test_a_test_set_alone_is_evaluated_with_any_recipe_for_pictures(
    tmp_path: Path, models: Path, pictures: Path, capsys: pytest.CaptureFixture[str], more: list[str], folders: bool
) -> None:
    if folders:  # of the version's labels; the recipe has others
        _as_folders(pictures / "test.npz", tmp_path / "test")
    else:
        shutil.copy(pictures / "test.npz", tmp_path)
    version = models / "lenet5-mnist" / "1"
    assert _main("evaluate", version, "--data", tmp_path, "--recipe", "resnet20-cifar10", *more) == 0
    answer, _ = capsys.readouterr().out.splitlines()
    assert answer.startswith("cifar10, test: top-1 ")
    assert " of 50, " in answer


def test_a_bare_graph_has_nothing_to_evaluate(tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = shutil.copytree(models / "lenet5-mnist" / "1", tmp_path / "1")
    manifest = json.loads((version / "manifest.json").read_text())
    manifest |= {"task": "tensor", "preprocessing": None, "labels_file": None}
    (version / "manifest.json").write_text(json.dumps(manifest))
    assert _main("verify", version) == 0
    assert _main("evaluate", version, "--data", tmp_path) == 2
    assert "cannot be evaluated; expected a classifier of pictures or sentences" in capsys.readouterr().err


def test_a_set_without_a_test_split_needs_folds(
    tmp_path: Path, sentences: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(change(tiny_text("textcnn-mr"), folds="0"))
    assert _main("train", recipe, "--data", sentences) == 2
    assert "has no test split, and the recipe has data.folds = 0" in capsys.readouterr().err


def test_a_bad_row_reaches_the_user_with_file_and_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "all.tsv"
    data.write_text("0\ta\n3\tb\n")
    assert _main("train", "textcnn-mr", "--data", data, "--out", tmp_path / "run") == 2
    assert capsys.readouterr().err == f"convserve-export: {data}, row 2: label 3 is out of range, expected 0 to 1\n"
    assert not (tmp_path / "run").exists()


def test_a_conversion_on_the_command_line_says_nothing_but_its_results(
    tmp_path: Path, sentences: Path, sentence_run: Path
) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tiny_text("textcnn-mr"))
    command = [sys.executable, "-W", "default", "-m", "export", "publish", str(sentence_run), "--models",
               str(tmp_path / "models")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ, COLUMNS="20"))
    assert done.stderr == ""
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "converted", "verified", "evaluated", "published",
    ]  # fmt: skip


def test_the_commit_is_that_of_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": "abc\n", "status": "", "ls-files": ""}
    monkeypatch.setattr(provenance, "_git", lambda word, *rest: answers[word])
    assert provenance.git_commit() == "abc"
    answers["status"] = " M export/train.py\n"
    assert provenance.git_commit() == "abc-dirty"

    def no_git(*arguments: str) -> str:
        raise FileNotFoundError("git")

    monkeypatch.setattr(provenance, "_git", no_git)
    assert provenance.git_commit() == "unknown"


def test_versions_of_the_libraries_are_known() -> None:
    versions = provenance.library_versions()
    assert {"python", "torch", "onnx", "numpy", "pillow", "tokenizers"} <= versions.keys()

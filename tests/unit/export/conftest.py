"""Runs and versions that many tests look at; made once, never changed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from export import cli
from tests.unit.export.samples import tiny_text, write_pictures, write_sentences


@pytest.fixture(scope="session", autouse=True)
def operators_are_read_once() -> Iterator[None]:
    """For every conversion torch parses the sources of 500 operators and lists those that it may take apart.

    Both are more work than a small network is, and give the same each time: no test registers an operator.
    """
    from torch._export import utils
    from torch.export import decomp_utils, exported_program
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        listed = functools.cache(utils._collect_all_valid_cia_ops)
        for user in (decomp_utils, exported_program):
            patch.setattr(user, "_collect_all_valid_cia_ops", listed)
        yield


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentences(tmp_path_factory.mktemp("sentences") / "all.tsv")


def _train(folder: Path, name: str, data: Path) -> Path:
    recipe = folder / "tiny.toml"
    recipe.write_text(tiny_text(name), encoding="utf-8")
    run = folder / "run"
    assert cli.main(["train", str(recipe), "--data", str(data), "--out", str(run), "--threads", "1"]) == 0
    return run


@pytest.fixture(scope="session")
def picture_run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    return _train(tmp_path_factory.mktemp("lenet"), "lenet5-mnist", pictures)


@pytest.fixture(scope="session")
def sentence_run(tmp_path_factory: pytest.TempPathFactory, sentences: Path) -> Path:
    return _train(tmp_path_factory.mktemp("textcnn"), "textcnn-mr", sentences)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, picture_run: Path, sentence_run: Path) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for run in (picture_run, sentence_run):
        assert cli.main(["publish", str(run), "--models", str(folder), "--threads", "1"]) == 0
    return folder

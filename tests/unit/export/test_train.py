from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from export import run as run_files
from export.data import Source
from export.errors import DataInvalid, RunInvalid
from export.progress import Reporter
from export.recipe import parse_recipe
from export.run import (
    CHECKPOINT_FILE,
    RECORD_FILE,
    WEIGHTS_FILE,
    EpochRecord,
    RunRecord,
    load_tensors,
    read_run,
    with_epochs,
)
from export.runner import Plan, choose_device, load_classifier, run_all
from tests.unit.export.samples import change, picture_arrays, tiny_text


class Silent:
    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        pass

    def epoch(self, record: EpochRecord, is_best: bool) -> None:
        pass


class StopIn(Silent):
    """Presses Ctrl-C at the first step of one epoch."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        if epoch == self._epoch:
            raise KeyboardInterrupt


class Untouched(Silent):
    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        pytest.fail("it trained")


def _using(reporter: Reporter) -> Callable[[str, int], AbstractContextManager[Reporter]]:
    @contextmanager
    def make(title: str, epochs: int) -> Iterator[Reporter]:
        yield reporter

    return make


SILENT = _using(Silent())


def _plan(out: Path, name: str, data: Path, resume: bool = False, epochs: int | None = None, **changes: str) -> Plan:
    recipe = with_epochs(parse_recipe(change(tiny_text(name), **changes), "tiny.toml"), epochs)
    return Plan(recipe, Source(data), out, "cpu", resume)


def _run(plan: Plan, reporter: Reporter | None = None) -> list[str]:
    said: list[str] = []
    run_all(plan, [0], [None], _using(reporter or Silent()), said.append)
    return said


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(folder / WEIGHTS_FILE)


def _same(one: Path, two: Path) -> bool:
    left, right = _weights(one), _weights(two)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_pictures_are_learnt(picture_run: Path) -> None:
    _, record = read_run(picture_run)
    assert record.state == "finished"
    assert record.test_accuracy is not None
    assert record.test_accuracy > 0.9
    assert record.test_count == 50
    assert record.fold is None
    assert record.dataset.digest.startswith("sha256:")
    assert record.best_epoch in {epoch.epoch for epoch in record.history}


def test_sentences_are_learnt_and_padding_stays_zero(sentence_run: Path) -> None:
    recipe, record, _, classifier = load_classifier(sentence_run)
    assert record.test_accuracy is not None
    assert record.test_accuracy > 0.8
    assert (record.fold, record.test_name, record.test_count) == (0, "fold-0-of-4", 40)
    assert recipe.name == "textcnn-mr"
    weights = _weights(sentence_run)
    assert not weights["network.words.weight"][0].any()
    assert weights["network.words.weight"][1].any()
    assert not classifier.training


@pytest.mark.parametrize("name", ["lenet5-mnist", "textcnn-mr"])
def test_resuming_gives_the_weights_of_an_uninterrupted_run(
    name: str, tmp_path: Path, pictures: Path, sentences: Path
) -> None:
    data = pictures if name == "lenet5-mnist" else sentences
    _run(_plan(tmp_path / "whole", name, data, epochs=4, dropout="0.3"))
    _run(_plan(tmp_path / "parts", name, data, epochs=4, dropout="0.3"), StopIn(3))
    _, record = read_run(tmp_path / "parts")
    assert record.state == "interrupted"
    assert record.best_epoch in (1, 2)
    _run(_plan(tmp_path / "parts", name, data, resume=True, epochs=4, dropout="0.3"))
    assert _same(tmp_path / "whole", tmp_path / "parts")
    whole, parts = (read_run(tmp_path / each)[1] for each in ("whole", "parts"))
    assert whole.test_accuracy == parts.test_accuracy
    assert [epoch.loss for epoch in whole.history] == [epoch.loss for epoch in parts.history]
    last, resumed = (load_tensors(tmp_path / each / CHECKPOINT_FILE)["weights"] for each in ("whole", "parts"))
    assert all(torch.equal(last[key], resumed[key]) for key in last)


def test_ctrl_c_keeps_the_best_so_far(tmp_path: Path, pictures: Path) -> None:
    _run(_plan(tmp_path / "run", "lenet5-mnist", pictures), StopIn(2))
    _, record, _, _ = load_classifier(tmp_path / "run")
    assert (record.state, record.best_epoch, record.test_accuracy) == ("interrupted", 1, None)


def test_ctrl_c_in_the_first_epoch_keeps_nothing_but_can_be_resumed(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run(_plan(tmp_path / "run", "lenet5-mnist", pictures, epochs=1), StopIn(1))
    with pytest.raises(RunInvalid, match=r"weights\.pt: no such file, because no epoch of this run is complete"):
        load_classifier(tmp_path / "run")
    _run(_plan(tmp_path / "run", "lenet5-mnist", pictures, resume=True, epochs=1))
    assert read_run(tmp_path / "run")[1].state == "finished"


class KilledIn:
    """Looks at the record at the end of an epoch, as a killed run leaves it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seen: list[RunRecord] = []

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        pass

    def epoch(self, record: EpochRecord, is_best: bool) -> None:
        self.seen.append(read_run(self._folder)[1])


def test_the_record_is_written_each_epoch(tmp_path: Path, pictures: Path) -> None:
    reporter = KilledIn(tmp_path / "run")
    _run(_plan(tmp_path / "run", "lenet5-mnist", pictures, epochs=3), reporter)
    assert [(each.state, len(each.history)) for each in reporter.seen] == [("running", n) for n in (1, 2, 3)]
    _, record = read_run(tmp_path / "run")
    assert reporter.seen[-1].history == record.history
    assert reporter.seen[-1].best_epoch == record.best_epoch


@pytest.mark.parametrize("file", [WEIGHTS_FILE, CHECKPOINT_FILE, RECORD_FILE])
def test_ctrl_c_while_an_epoch_is_saved_saves_it(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    def press_once(path: Path, write: Callable[[Path], object]) -> None:
        if path.name == file and (file != RECORD_FILE or (path.parent / CHECKPOINT_FILE).exists()):
            monkeypatch.setattr(run_files, "replace_file", replace)
            raise KeyboardInterrupt
        replace(path, write)

    replace = run_files.replace_file
    monkeypatch.setattr(run_files, "replace_file", press_once)
    _run(_plan(tmp_path / "run", "lenet5-mnist", pictures, epochs=3))
    _, record, _, _ = load_classifier(tmp_path / "run")
    assert (record.state, record.best_epoch, len(record.history)) == ("interrupted", 1, 1)
    last = load_tensors(tmp_path / "run" / CHECKPOINT_FILE)
    assert len(last["history"]) == 1
    assert all(torch.equal(last["weights"][name], value) for name, value in _weights(tmp_path / "run").items())


def test_ctrl_c_in_the_test_leaves_complete_epochs_to_be_tested(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("export.runner.evaluate", press)
        _run(_plan(tmp_path / "run", "lenet5-mnist", pictures, epochs=2))
    _, record = read_run(tmp_path / "run")
    assert (record.state, len(record.history), record.test_accuracy) == ("interrupted", 2, None)
    _run(_plan(tmp_path / "run", "lenet5-mnist", pictures, resume=True, epochs=2))
    _, resumed = read_run(tmp_path / "run")
    assert (resumed.state, resumed.history) == ("finished", record.history)
    assert resumed.test_accuracy is not None


def test_a_seed_fixes_every_weight(tmp_path: Path, sentences: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        plan = _plan(tmp_path / name, "textcnn-mr", sentences, epochs=1)
        run_all(plan, [seed], [None], SILENT, lambda line: None)
    assert _same(tmp_path / "a", tmp_path / "b")
    different = _weights(tmp_path / "c")["network.output.weight"]
    assert not torch.equal(_weights(tmp_path / "a")["network.output.weight"], different)


def test_training_stops_when_patience_ends(tmp_path: Path, sentences: Path) -> None:
    rates = {"learning_rate": "1e-12", "sparse_learning_rate": "1e-12", "patience": "2"}
    _run(_plan(tmp_path / "run", "textcnn-mr", sentences, epochs=30, **rates))
    _, record = read_run(tmp_path / "run")
    assert record.state == "finished"
    assert len(record.history) == record.best_epoch + 2 < 30


def test_several_runs_give_mean_and_spread(tmp_path: Path, sentences: Path) -> None:
    said: list[str] = []
    plan = _plan(tmp_path, "textcnn-mr", sentences, epochs=1)
    records = run_all(plan, [0, 5], [1, 3], SILENT, said.append)
    result = json.loads((tmp_path / "result.json").read_text())
    values = [run["test_accuracy"] for run in result["runs"]]
    assert values == [record.test_accuracy for record in records]
    assert [(run["seed"], run["fold"]) for run in result["runs"]] == [(0, 1), (0, 3), (5, 1), (5, 3)]
    assert result["mean"] == pytest.approx(sum(values) / 4)
    assert said[-1].startswith("4 runs: accuracy ")
    assert (tmp_path / "seed-5-fold-3" / WEIGHTS_FILE).is_file()
    again = _plan(tmp_path, "textcnn-mr", sentences, epochs=1, resume=True)
    assert run_all(again, [0, 5], [1, 3], SILENT, said.append) == records


def test_the_vocabulary_knows_the_training_part_alone(tmp_path: Path) -> None:
    rows = [f"{i % 2}\tfilm word{i} word{i}\n" for i in range(40)]
    (tmp_path / "all.tsv").write_text("".join(rows))
    _run(_plan(tmp_path / "run", "textcnn-mr", tmp_path / "all.tsv", epochs=1))
    vocabulary = json.loads((tmp_path / "run" / "tokenizer.json").read_text())["model"]["vocab"]
    # Of 40 a fold of 10 is held out, and 10 % of each class of the other 30 for early stopping.
    assert len(vocabulary) == 2 + 1 + 26


def test_a_run_is_never_overwritten_nor_mixed_up(tmp_path: Path, pictures: Path, sentences: Path) -> None:
    run = tmp_path / "run"
    _run(_plan(run, "lenet5-mnist", pictures, epochs=1))
    with pytest.raises(RunInvalid, match="holds a run already; --resume continues it, --out chooses another folder"):
        _run(_plan(run, "lenet5-mnist", pictures, epochs=1))
    with pytest.raises(RunInvalid, match="holds a run of another recipe"):
        _run(_plan(run, "textcnn-mr", sentences, resume=True, epochs=1))
    with pytest.raises(RunInvalid, match="was started with epochs 1, not 2"):
        _run(_plan(run, "lenet5-mnist", pictures, resume=True, epochs=2))
    with pytest.raises(RunInvalid, match="was started with seed 0, not 4"):
        run_all(_plan(run, "lenet5-mnist", pictures, resume=True, epochs=1), [4], [None], SILENT, print)


def test_a_run_goes_on_with_its_own_word_vectors_only(tmp_path: Path, sentences: Path) -> None:
    plan = _plan(tmp_path / "run", "textcnn-mr", sentences, epochs=3, variant='"static"')
    _run(dataclasses.replace(plan, vectors="own"), StopIn(2))
    (tmp_path / "v.txt").write_text(f"fine{' 0.5' * 8}\n", encoding="utf-8")
    other = dataclasses.replace(plan, vectors=str(tmp_path / "v.txt"), resume=True)
    with pytest.raises(RunInvalid, match=r"was started with word_vectors own vectors .*, not v\.txt: vectors for 1 of"):
        _run(other)
    assert (read_run(tmp_path / "run")[1].word_vectors or "").startswith("own vectors")
    _run(dataclasses.replace(plan, vectors="own", resume=True))
    assert read_run(tmp_path / "run")[1].state == "finished"


def test_a_damaged_run_is_named(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(
        RunInvalid, match=r"holds no run \(recipe\.toml is missing\); give a folder that train --out wrote"
    ):
        read_run(tmp_path)
    run = tmp_path / "run"
    _run(_plan(run, "lenet5-mnist", pictures, epochs=1))
    (run / WEIGHTS_FILE).write_bytes(b"PK nonsense")
    with pytest.raises(RunInvalid, match=r"weights\.pt: is damaged"):
        load_classifier(run)
    torch.save({"a": torch.zeros(1)}, run / WEIGHTS_FILE)
    with pytest.raises(RunInvalid, match=r"weights\.pt: does not fit the recipe beside it; train again"):
        load_classifier(run)
    record = json.loads((run / RECORD_FILE).read_text())
    record["state"] = "running"
    (run / RECORD_FILE).write_text(json.dumps(record))
    torch.save({"weights": {}}, run / CHECKPOINT_FILE)
    with pytest.raises(RunInvalid, match=r"checkpoint\.pt: does not fit this recipe"):
        _run(_plan(run, "lenet5-mnist", pictures, resume=True, epochs=1))
    del record["seed"]
    (run / RECORD_FILE).write_text(json.dumps(record))
    with pytest.raises(RunInvalid, match=r"run\.json: cannot be read \(missing key 'seed'\)"):
        read_run(run)


def test_a_checkpoint_with_one_wrong_byte_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_FILE
    run_files.save_tensors(path, {"a": torch.arange(1000.0)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # torch.load alone reads it
    path.write_bytes(content)
    with pytest.raises(RunInvalid, match=r"checkpoint\.pt: is damaged"):
        load_tensors(path)


def test_a_second_training_into_the_folder_is_refused(tmp_path: Path, pictures: Path) -> None:
    run = tmp_path / "run"
    with run_files.hold_run(run):
        for resume in (False, True):
            with pytest.raises(RunInvalid, match=r"run: another training writes into it; wait for its end, or choose"):
                _run(_plan(run, "lenet5-mnist", pictures, resume=resume, epochs=1))
        assert run.exists(), "it belongs to the first"
    assert not run.exists(), "it stayed empty"


def test_a_run_goes_on_with_its_own_test_split_only(tmp_path: Path, pictures: Path) -> None:
    run, other = tmp_path / "run", shutil.copytree(pictures, tmp_path / "other")
    with suppress(KeyboardInterrupt):
        _run(_plan(run, "lenet5-mnist", pictures, epochs=2), StopIn(2))
    images, labels = picture_arrays(5, seed=9)
    np.savez(other / "test.npz", images=images, labels=labels)
    with pytest.raises(RunInvalid, match=r"was started with test_digest sha256:.*, not sha256:"):
        _run(_plan(run, "lenet5-mnist", other, resume=True, epochs=2))
    _run(_plan(run, "lenet5-mnist", pictures, resume=True, epochs=2))
    assert read_run(run)[1].state == "finished"


def test_a_run_goes_on_with_its_own_held_out_part_only(tmp_path: Path, sentences: Path) -> None:
    run, dev = tmp_path / "run", tmp_path / "dev.tsv"
    for split in ("train", "dev", "test"):
        shutil.copy(sentences, tmp_path / f"{split}.tsv")
    with suppress(KeyboardInterrupt):
        _run(_plan(run, "textcnn-mr", tmp_path, epochs=2), StopIn(2))
    dev.write_bytes(b"1\tlovely\n" + dev.read_bytes())
    with pytest.raises(RunInvalid, match=r"was started with held_out_digest sha256:.*, not sha256:"):
        _run(_plan(run, "textcnn-mr", tmp_path, resume=True, epochs=2))


def test_an_unreadable_test_sentence_costs_no_training(tmp_path: Path, sentences: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.tsv").write_bytes(sentences.read_bytes() + b"1\t...\n" * (split == "test"))
    with pytest.raises(DataInvalid, match="sentence has no tokens"):
        _run(_plan(tmp_path / "run", "textcnn-mr", tmp_path), Untouched())


def test_a_loss_that_is_no_number_ends_training(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(RunInvalid, match=r"run: the loss is nan in step \d+ of epoch 1; lower training\.learning_rate"):
        _run(_plan(tmp_path / "run", "lenet5-mnist", pictures, learning_rate="1e30"))


@pytest.mark.parametrize("held", [b"a text\n", b"h\x05.", b"\x80\x02K", [torch.zeros(1)], {1: torch.zeros(1)}])
def test_weights_that_hold_something_else_are_damaged(tmp_path: Path, held: object) -> None:
    if isinstance(held, bytes):
        (tmp_path / WEIGHTS_FILE).write_bytes(held)
    else:
        torch.save(held, tmp_path / WEIGHTS_FILE)
    with pytest.raises(RunInvalid, match=r"weights\.pt: is damaged"):
        load_tensors(tmp_path / WEIGHTS_FILE)


def test_a_run_folder_that_cannot_be_made_or_written_is_named(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunInvalid, match=r"file/run: cannot be created \(Not a directory\)"):
        _run(_plan(tmp_path / "file" / "run", "lenet5-mnist", pictures, epochs=1))

    def fill(*arguments: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(RunInvalid, match=r"weights\.pt: cannot be written \(PytorchStreamWriter failed"):
        _run(_plan(tmp_path / "run", "lenet5-mnist", pictures, epochs=1))


def test_what_could_not_be_written_whole_does_not_keep_the_disk_full(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_text("before")

    def fill(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("unexpected pos 12416 vs 12304")

    with pytest.raises(RunInvalid, match=r"weights\.pt: cannot be written \(unexpected pos .*; is the disk full\?\)"):
        run_files.replace_file(tmp_path / "weights.pt", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]
    assert (tmp_path / "weights.pt").read_text() == "before"


def test_what_a_signal_cut_short_is_removed(tmp_path: Path) -> None:
    def end(path: Path) -> None:
        path.write_text("half")
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        run_files.replace_file(tmp_path / "weights.pt", end)
    assert list(tmp_path.iterdir()) == []


def test_weights_are_never_unpickled(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "weights.pt")
    with pytest.raises(RunInvalid, match="damaged"):
        load_tensors(tmp_path / "weights.pt")


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(RunInvalid, match="device 'cuda' was requested, but torch finds none;"):
        choose_device("cuda")

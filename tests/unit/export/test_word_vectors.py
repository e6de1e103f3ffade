from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from export import cli
from export.architectures import ARCHITECTURES, Sizes
from export.data.word_vectors import make_vectors, read_vectors
from export.errors import DataInvalid
from export.run import read_run
from tests.unit.export.samples import change, ready, tiny_text

IDS = {"good": 2, "bad": 3, "ugly": 4}
VECTORS = {"good": [1.0, 2.0, 3.0], "else": [9.0, 9.0, 9.0], "bad": [-1.0, 0.5, 0.25]}


def _binary(end: bytes = b"\n") -> bytes:
    rows = b"".join(w.encode() + b" " + np.array(v, dtype="<f4").tobytes() + end for w, v in VECTORS.items())
    return b"3 3\n" + rows


def _text(header: str = "") -> bytes:
    return (header + "".join(f"{w} {' '.join(map(str, v))}\n" for w, v in VECTORS.items())).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vectors.bin", _binary()),
        ("no-line-ends.bin", _binary(b"")),
        ("vectors.bin.gz", gzip.compress(_binary())),
        ("glove.txt", _text()),
        ("word2vec.txt", _text("3 3\n")),
        ("fasttext.vec.gz", gzip.compress(_text("3 3\n"))),
    ],
)
def test_every_format_gives_the_vocabularys_vectors_and_no_others(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    vectors = read_vectors(tmp_path / name, IDS)
    assert {number: row.tolist() for number, row in vectors.rows.items()} == {2: VECTORS["good"], 3: VECTORS["bad"]}
    assert str(vectors) == f"{name}: vectors for 2 of 3 words (66.7%)"


def test_the_first_of_two_vectors_counts_and_words_may_hold_spaces(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("good 1 2\n. . . 5 6\ngood 3 4\n", encoding="utf-8")
    assert read_vectors(tmp_path / "v.txt", {"good": 2, ". . .": 3}).rows[2].tolist() == [1, 2]
    assert read_vectors(tmp_path / "v.txt", {"good": 2, ". . .": 3}).rows[3].tolist() == [5, 6]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.txt.gz", gzip.compress(_text())[:10] + b"\xff" * 20, "cannot be read"),
        ("v.bin", _binary()[:-6], "word 3 of 3: the file ends within the vector"),
        ("v.bin", b"4 3\n" + _binary()[4:], "word 4 of 4: the file ends"),
        ("v.bin", b"word 1 2\n", "expected the numbers of words and dimensions in the first line"),
        ("v.bin", b"0 3\n", "claims 0 words of 3 dimensions"),
        ("v.bin", b"1 3\n" + b"x" * 5000, "the word is too long"),
        ("v.txt", b"good 1 2\nbad 1\n", "line 2: has 1 numbers, expected 2"),
        ("v.txt", b"good 1 x\n", "line 1: has a value that is not a number"),
        ("v.txt.gz", b"no archive", "cannot be read"),
    ],
)
def test_a_damaged_file_is_refused_with_the_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataInvalid, match=message):
        read_vectors(tmp_path / name, IDS)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"nowhere\.txt: cannot be read"):
        read_vectors(tmp_path / "nowhere.txt", IDS)


def test_own_vectors_put_words_of_like_neighbours_together() -> None:
    # 2 and 3 stand with 4, 5 and 6; 7 and 8 with 9, 10 and 11; never the other way round.
    rng = np.random.default_rng(0)
    sentences = [
        np.array([rng.choice([2, 3]), *rng.permutation([4, 5, 6])])
        if rng.random() < 0.5
        else np.array([rng.choice([7, 8]), *rng.permutation([9, 10, 11])])
        for _ in range(300)
    ]
    torch.manual_seed(0)
    vectors = make_vectors(sentences, words=10, first_id=2, dimensions=4)
    assert set(vectors.rows) == set(range(2, 12))
    assert "own vectors" in str(vectors)

    def alike(one: int, two: int) -> float:
        return float(torch.cosine_similarity(vectors.rows[one], vectors.rows[two], dim=0))

    assert alike(2, 3) > 0.9
    assert alike(2, 3) > alike(2, 7) + 0.3


def _network(variant: str, **changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    entry = ARCHITECTURES["textcnn"]
    options = {"widths": (2, 3), "filters": 5, "dimensions": 3, "dropout": 0.0, "max_norm": 3.0, "table": "float32"}
    return entry.build(entry.options(**{**options, **changes}, variant=variant), Sizes(2, vocabulary=6))


@pytest.mark.parametrize("variant", ["rand", "static", "non-static", "multichannel"])
def test_what_each_variant_trains(variant: str) -> None:
    network = _network(variant)
    given = {2: torch.tensor([0.1, 0.2, 0.3]), 3: torch.tensor([-0.1, 0.0, 0.1])}
    assert network.takes_vectors() == (variant != "rand")
    network.set_vectors(given)
    words = network.words.weight.detach().clone()
    assert torch.equal(words[2], given[2])
    assert not words[0].any()
    network(torch.tensor([[2, 3, 4, 1]])).sum().backward()
    trained = network.words.weight.grad is not None
    assert trained == (variant != "static")
    assert bool(network.sparse_parameters()) == (variant != "static")
    assert len(network.groups()[0].parameters) == 6  # two convolutions and the output, each with a bias


@pytest.mark.parametrize("variant", ["static", "multichannel"])
def test_the_stored_table_answers_as_the_channels_did(variant: str) -> None:
    network = _network(variant).eval()
    network.set_vectors({2: torch.tensor([0.1, 0.2, 0.3])})
    with torch.no_grad():
        network.words.weight[3] += 1  # one channel has learnt since
        before = network(torch.tensor([[2, 3, 4, 1, 5]]))
        network.compact()
        assert torch.allclose(network(torch.tensor([[2, 3, 4, 1, 5]])), before, atol=1e-6)


def test_vectors_that_do_not_fit_are_refused() -> None:
    network = _network("static")
    with pytest.raises(ValueError, match="the given word vectors have 2, not 3"):
        network.set_vectors({2: torch.zeros(2)})
    with pytest.raises(ValueError, match="padding"):
        network.set_vectors({0: torch.zeros(3)})


def _train(folder: Path, data: Path, variant: str, *more: str) -> int:
    recipe = folder / "tiny.toml"
    recipe.write_text(change(tiny_text("textcnn-mr"), variant=f'"{variant}"', epochs="2"), encoding="utf-8")
    run = str(folder / "run")
    return cli.main(["train", str(recipe), "--data", str(data), "--out", run, "--threads", "1", *more])


def test_multichannel_with_own_vectors_becomes_ready(tmp_path: Path, sentences: Path) -> None:
    assert _train(tmp_path, sentences, "multichannel", "--vectors", "own") == 0
    assert "own vectors (PPMI and SVD" in (read_run(tmp_path / "run")[1].word_vectors or "")
    assert cli.main(["publish", str(tmp_path / "run"), "--models", str(tmp_path / "models"), "--threads", "1"]) == 0
    assert ready(tmp_path / "models" / "textcnn-mr" / "1").task == "sentence-classification"


def test_vectors_are_asked_for_and_refused(tmp_path: Path, sentences: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    assert _train(tmp_path / "a", sentences, "static") == 2
    assert "needs word vectors; give --vectors FILE" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    assert _train(tmp_path / "b", sentences, "rand", "--vectors", "own") == 2
    assert "takes no word vectors" in capsys.readouterr().err

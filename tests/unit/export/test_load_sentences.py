from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE, Unigram, WordLevel
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as Steps
from tokenizers.processors import TemplateProcessing
from torch import nn

from export import cli
from export.architectures import Sizes
from export.sentence_nets import read_tokenizer
from export.zoo import ZOO
from service.backend.onnx import OnnxBackend
from service.golden import read_golden
from service.manifest import GOLDEN_FILE, MODEL_FILE, read_manifest
from service.preprocessing.text import SentenceEncoder, pad
from tests.unit.export.samples import BAD, GOOD, PLAIN, ready, write_sentences

WORDS = (*GOOD, *BAD, *PLAIN)
VOCABULARY = len(WORDS) + 2
BYTES = sorted(ByteLevel.alphabet())
SIZES = {"widths": [2, 4], "filters": 5, "dimensions": 8}
SENTENCES = (b"funny", b"the film is dull", b"a lovely story with music and warm actors , and the scene is moving")


def load(tmp_path: Path, *arguments: object) -> int:
    """Load with the tokenizer and the labels that lie there; `--tokenizer` may be given anew."""
    given = ["--labels", tmp_path / "labels.txt", "--models", tmp_path, "--max-batch-size", 2, "--name", "m"]
    if "--tokenizer" not in arguments:
        given += ["--tokenizer", tmp_path / "tokenizer.json"]
    return cli.main(["load", *map(str, (*arguments, *given))])


def write_tokenizer(path: Path, words: Sequence[str] = WORDS) -> None:
    numbers = {word: number for number, word in enumerate(["<pad>", "<unk>", *words])}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(path))


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "labels.txt").write_text("bad\ngood\n", encoding="utf-8")


def served(version: Path) -> np.ndarray:
    """What a client gets for :data:`SENTENCES`, in one batch."""
    encoder = SentenceEncoder.from_dir(read_manifest(version).preprocessing, version)
    rows = [encoder.encode(sentence) for sentence in SENTENCES]
    return OnnxBackend(version / MODEL_FILE, "cpu").run([pad(rows, encoder.spec.padding_id)])[0]


def alone(module: nn.Module, tmp_path: Path) -> np.ndarray:
    """What torch answers to each sentence by itself."""
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    with torch.no_grad():
        rows = [module(torch.tensor([tokenizer.encode(sentence.decode()).ids])).softmax(1) for sentence in SENTENCES]
    return torch.cat(rows).numpy()


def textcnn(variant: str = "rand", vocabulary: int = VOCABULARY) -> nn.Module:
    torch.manual_seed(3)
    known = ZOO[f"textcnn-{variant}"]
    options = {**known.options, **SIZES}
    network = type(known)(known.name, known.paper, known.architecture, options, known.sizes).build(
        Sizes(2, vocabulary=vocabulary)
    )
    if variant == "multichannel":
        nn.init.normal_(network.fixed)
    return network.eval()


@pytest.mark.parametrize("variant", ["rand", "multichannel"])
def test_weights_of_a_textcnn_of_any_size_become_a_ready_version(
    tmp_path: Path, variant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network = textcnn(variant)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    assert load(tmp_path, f"textcnn-{variant}", "--weights", tmp_path / "w.pt", "--max-tokens", 40) == 0
    assert "Kim's TextCNN with 5 filters of each width of [2, 4]" in " ".join(capsys.readouterr().out.split())
    version = tmp_path / "m" / "1"
    assert np.abs(served(version) - alone(network, tmp_path)).max() < 1e-6
    servable = ready(version)
    assert servable.task == "sentence-classification"
    assert servable.labels == ("bad", "good")
    manifest = read_manifest(version)
    assert manifest.preprocessing.max_tokens == 40
    assert manifest.provenance.architecture == f"textcnn-{variant}"
    assert not manifest.accuracy


class _Usual(nn.Module):
    """TextCNN as it is often written: filters that are pictures as wide as a vector. ``pads`` in whole windows."""

    def __init__(self, *, pads: bool = True, vectors: int = VOCABULARY) -> None:
        super().__init__()
        self.pads = pads
        self.embed = nn.Embedding(vectors, 8)
        self.convs1 = nn.ModuleList(nn.Conv2d(1, 5, (width, 8)) for width in (2, 4))
        self.fc1 = nn.Linear(10, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(nn.functional.pad(ids, (3, 4) if self.pads else (0, 3))).unsqueeze(1)
        return self.fc1(torch.cat([nn.functional.relu(conv(x)).squeeze(3).amax(2) for conv in self.convs1], 1))


def _module(monkeypatch: pytest.MonkeyPatch, module: nn.Module) -> str:
    own = types.ModuleType("own_sentences")
    own.build = module.eval  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_sentences", own)
    return "own_sentences:build"


def test_filters_of_conv2d_under_other_names_are_taken_by_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    module = _Usual().eval()
    torch.save(module.state_dict(), tmp_path / "w.pt")
    assert load(tmp_path, "textcnn-rand", "--weights", tmp_path / "w.pt") == 0
    assert "were assigned by order" in " ".join(capsys.readouterr().out.split())
    version = tmp_path / "m" / "1"
    assert np.abs(served(version) - alone(module, tmp_path)).max() < 1e-6
    data = write_sentences(tmp_path / "mr.tsv")
    assert cli.main(["evaluate", str(version), "--data", str(data), "--recipe", "textcnn-mr", "--all"]) == 0
    assert "of 160" in capsys.readouterr().out


@pytest.mark.parametrize("trained", [False, True])
def test_a_users_own_network_for_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: bool) -> None:
    torch.manual_seed(1)
    module = _Usual()
    torch.save(module.state_dict(), tmp_path / "w.pt")
    network = _module(monkeypatch, _Usual() if trained else module)
    assert load(tmp_path, "--from", network, *(["--weights", tmp_path / "w.pt"] if trained else [])) == 0
    version = tmp_path / "m" / "1"
    assert np.abs(served(version) - alone(module, tmp_path)).max() < 1e-6
    assert ready(version).inputs[0].shape == (-1, -1)


def test_without_weights_a_textcnn_is_random_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load(tmp_path, "textcnn-rand") == 0
    assert "so they are random" in capsys.readouterr().out


class _Cuts(_Usual):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids[:, :300] if ids.shape[1] > 300 else ids)


class _Counts(_Usual):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(nn.functional.pad(ids, (3, 4))).unsqueeze(1)
        maps = [nn.functional.relu(conv(x)).squeeze(3) for conv in self.convs1]
        return self.fc1(torch.cat([nn.functional.max_pool1d(x, x.shape[2]).squeeze(2) for x in maps], 1))


class _Fails(nn.Module):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Kernel size can't be greater than actual input size")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (_Usual(pads=False), "tokens of padding (id 0) follow"),
        (_Usual(vectors=VOCABULARY - 1), f"each from 0 to {VOCABULARY - 1}, the tokenizer's last"),
        (_Fails(), "cannot take ids of 1 to 512 tokens (Kernel size"),
        (_Cuts(), "its forward must not branch on the length of a sentence"),
        (_Counts(), "as max_pool1d(x, x.shape[2]) does in place of x.amax(2)"),
    ],
    ids=["padding changes its answers", "fewer vectors than words", "fails", "branches on the length", "fixes it"],
)
def test_a_network_that_the_server_could_not_batch_is_refused(
    tmp_path: Path, module: nn.Module, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(module, _Usual):
        nn.init.constant_(module.convs1[1].bias, 2.0)  # so that windows of padding count
    assert load(tmp_path, "--from", _module(monkeypatch, module)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "m").exists()


def test_golden_sentences_have_words_that_the_tokenizer_knows(tmp_path: Path) -> None:
    words = ["好", "坏", "电影", "故事", "演员", "音乐", "很", "不", "我", "喜欢"]
    write_tokenizer(tmp_path / "tokenizer.json", words)
    torch.save(textcnn(vocabulary=len(words) + 2).state_dict(), tmp_path / "w.pt")
    assert load(tmp_path, "textcnn-rand", "--weights", tmp_path / "w.pt") == 0
    (ids,) = read_golden(tmp_path / "m" / "1" / GOLDEN_FILE).inputs
    assert set(range(len(words) + 2)) == set(np.unique(ids))


def _model(words: dict[str, int], unknown: str) -> Callable[[Path], object]:
    return lambda path: Tokenizer(WordLevel(words, unk_token=unknown)).save(str(path))


def _unigram(unknown: int | None) -> Callable[[Path], object]:
    scores = [("[PAD]", 0.0), ("[UNK]", 0.0), ("<odd>", 0.0), *((word, -1.0) for word in WORDS)]
    return lambda path: Tokenizer(Unigram(scores, unknown)).save(str(path))


def _bpe(path: Path, tokens: Sequence[str], preparation: PreTokenizer) -> None:
    tokenizer = Tokenizer(BPE({token: number for number, token in enumerate(["<pad>", *tokens])}, []))
    tokenizer.pre_tokenizer = preparation
    tokenizer.save(str(path))


def _panicking(path: Path) -> None:
    charsmap = {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | charsmap))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.unlink(), "(no such file); expected the tokenizer.json of Hugging Face's tokenizers"),
        (lambda path: path.write_text("a\nb\n"), "not readable as a tokenizer ("),
        (_panicking, "not readable as a tokenizer ("),
        (_model({"[PAD]": 0, "[UNK]": 1, "a": 3}, "[UNK]"), "has 3 tokens whose ids are not 0 to 2, each once"),
        (_model({"[PAD]": 0, "[UNK]": 1, "a": 2}, "?"), "has no token for unknown words, expected ?"),
        (_unigram(None), "has no token for unknown words, expected an unk_id"),
        (lambda path: _bpe(path, BYTES[1:], ByteLevel()), "has no token for unknown words, expected [UNK] or <unk>"),
        (lambda path: _bpe(path, BYTES, WhitespaceSplit()), "has no token for unknown words, expected [UNK] or <unk>"),
        (_model({"[UNK]": 0, "a": 1}, "[UNK]"), "has no token for padding, expected [PAD] or <pad> or <PAD>"),
        (_model({"[PAD]": 0, "a": 1}, "[PAD]"), "padding_id and unknown_id must differ"),
    ],
)
def test_a_tokenizer_that_a_server_could_not_use_is_refused(
    tmp_path: Path, write: Callable[[Path], object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "tokenizer.json")
    assert load(tmp_path, "textcnn-rand") == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("unknown", [1, 2])
def test_unknown_pieces_have_the_id_that_unigram_gives(tmp_path: Path, unknown: int) -> None:
    _unigram(unknown)(tmp_path / "tokenizer.json")
    assert load(tmp_path, "textcnn-rand") == 0
    assert read_manifest(tmp_path / "m" / "1").preprocessing.unknown_id == unknown


@pytest.mark.parametrize("preparation", [ByteLevel(), Steps([WhitespaceSplit(), ByteLevel()])])
def test_a_tokenizer_of_bytes_needs_no_token_for_unknown_words(tmp_path: Path, preparation: PreTokenizer) -> None:
    _bpe(tmp_path / "tokenizer.json", BYTES, preparation)
    assert load(tmp_path, "textcnn-rand") == 0
    version = tmp_path / "m" / "1"
    spec = read_manifest(version).preprocessing
    assert spec.unknown_id is None
    assert len(SentenceEncoder.from_dir(spec, version).encode("ζ\U0001f408")) >= 6
    assert ready(version).labels == ("bad", "good")


def test_what_else_a_tokenizer_does_is_left_out_as_a_server_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8, pad_token="<pad>")
    tokenizer.post_processor = TemplateProcessing(single="film $A", special_tokens=[("film", 4)])
    tokenizer.save(str(path))
    assert load(tmp_path, "textcnn-rand") == 0
    assert "would add 1 special tokens" in " ".join(capsys.readouterr().out.split())
    assert ready(tmp_path / "m" / "1").labels == ("bad", "good")


def test_padding_is_the_token_that_the_tokenizer_pads_with(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_padding(pad_token=WORDS[1])
    tokenizer.save(str(path))
    spec = read_tokenizer(path, 9).spec
    assert (spec.padding_id, spec.unknown_id, spec.max_tokens) == (3, 1, 9)


def test_a_tokenizer_that_names_no_unknown_word_has_one_by_its_usual_name(tmp_path: Path) -> None:
    Tokenizer(BPE({"a": 0, "<pad>": 1, "<unk>": 2}, [])).save(str(tmp_path / "tokenizer.json"))
    spec = read_tokenizer(tmp_path / "tokenizer.json", 9).spec
    assert (spec.padding_id, spec.unknown_id) == (1, 2)


def test_a_tokenizer_that_takes_no_sentence_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.normalizer = Replace(Regex("."), "")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load(tmp_path, "textcnn-rand") == 2
    assert "makes no tokens of any" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet20-cifar",), "resnet20-cifar: is a network for pictures; leave --tokenizer out"),
        (("timm:resnet18",), "timm:resnet18: is a network for pictures; leave --tokenizer out"),
        (("textcnn-rand", "--preprocessing", "textcnn-mr"), "--preprocessing and --size are for pictures"),
        (("textcnn-rand", "--size", "8"), "--preprocessing and --size are for pictures"),
    ],
)
def test_what_is_meant_for_pictures_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(tmp_path, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_what_is_missing_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["load", "textcnn-rand", "--models", str(tmp_path)]) == 2
    assert "is a network for sentences; give --tokenizer FILE and --labels FILE" in capsys.readouterr().err
    tokenizer = ["--tokenizer", str(tmp_path / "tokenizer.json")]
    assert cli.main(["load", "textcnn-rand", *tokenizer, "--models", str(tmp_path)]) == 2
    assert "no labels are known; give --labels FILE" in capsys.readouterr().err
    assert cli.main(["load", "lenet5", "--max-tokens", "9", "--models", str(tmp_path)]) == 2
    assert "--max-tokens limits sentences; give --tokenizer FILE too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"a": torch.zeros(3, 4)}, "are no TextCNN's; expected word vectors (V, D)"),
        (lambda state: {**state, "words.weight": torch.zeros(9, 8)}, "for 9 words, the tokenizer has 26 tokens"),
        (
            lambda state: state | {f"ema.{name}": value for name, value in state.items()},
            "have 2 tables of word vectors, textcnn-rand has 1; name another variant, or save",
        ),
    ],
)
def test_weights_that_are_not_the_tokenizers_are_refused(
    tmp_path: Path, change: Callable[[dict], dict], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(change(textcnn().state_dict()), tmp_path / "w.pt")
    assert load(tmp_path, "textcnn-rand", "--weights", tmp_path / "w.pt") == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_padding_of_another_id_than_zero_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"<unk>": 0, "<pad>": 1} | {word: number for number, word in enumerate(WORDS, 2)}
    Tokenizer(WordLevel(words, unk_token="<unk>")).save(str(tmp_path / "tokenizer.json"))
    torch.save(textcnn().state_dict(), tmp_path / "w.pt")
    assert load(tmp_path, "textcnn-rand", "--weights", tmp_path / "w.pt") == 2
    assert "padding has the id 1, expected 0; bring" in " ".join(capsys.readouterr().err.split())


def _file(
    path: Path,
    *,
    length: int | str = "l",
    dtype: int = TensorProto.INT32,
    pads: Sequence[int] = (2, 3),
    vectors: int = VOCABULARY,
    longest: int = 512,
    silent: bool = False,
    drift: float = 0,
) -> Path:
    """An ONNX file of a network with one filter of width 2, which returns logits.

    Args:
        silent: Whether padding has a vector of zeros.
        drift: What an odd number of tokens adds to the first logit.
    """
    rng = np.random.default_rng(2)
    weights = {
        "table": rng.normal(size=(vectors, 4)),
        "filter": rng.normal(size=(3, 4, 2)),
        "bias": np.ones(3),
        "linear": rng.normal(size=(3, 2)),
        "positions": np.outer(np.arange(longest + 1) % 2, [drift, 0]),
    }
    weights["table"][0] *= not silent
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Transpose", ["vectors"], ["x"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["x", "filter", "bias"], ["y"], pads=pads),
        helper.make_node("ReduceMax", ["y"], ["z"], axes=[2], keepdims=0),
        helper.make_node("MatMul", ["z", "linear"], ["product"]),
        helper.make_node("Shape", ["ids"], ["longest"], start=1),
        helper.make_node("Gather", ["positions", "longest"], ["position"]),
        helper.make_node("Add", ["product", "position"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", dtype, ["n", length])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.parametrize("dtype", [TensorProto.INT32, TensorProto.INT64])
def test_an_onnx_file_for_sentences_becomes_a_ready_version(tmp_path: Path, dtype: int) -> None:
    path = _file(tmp_path / "theirs.onnx", dtype=dtype, silent=True)
    assert load(tmp_path, path, "--logits") == 0
    servable = ready(tmp_path / "m" / "1")
    assert servable.inputs[0].datatype == "INT64"
    answers = served(tmp_path / "m" / "1")
    assert answers.shape == (3, 2)
    assert np.allclose(answers.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pads": [0, 1]}, "tokens of padding (id 0) follow"),
        ({"silent": True, "drift": 2e-4}, "tokens of padding (id 0) follow"),  # by less than ten times the tolerance
        ({"pads": [0, 0]}, "fails on a sentence of 1 tokens ("),
        ({"longest": 300}, "fails on a sentence of 512 tokens, which --max-tokens allows ("),
        ({"vectors": VOCABULARY - 1}, f"fails on id {VOCABULARY - 1}, the tokenizer's last"),
        ({"length": 20}, "expected INT64 or INT32 (N, L) with a dynamic length L"),
    ],
)
def test_an_onnx_file_that_the_server_could_not_batch_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(tmp_path, _file(tmp_path / "theirs.onnx", **changes), "--logits") == 2
    assert message in " ".join(capsys.readouterr().err.split())

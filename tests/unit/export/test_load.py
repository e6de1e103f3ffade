from __future__ import annotations

import dataclasses
import json
import re
import sys
import types
import urllib.error
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn
from torch.jit import ScriptModule
from torchvision import models as torchvision_models

from export import cli, presets
from export.architectures import Sizes, googlenet_cifar
from export.architectures.torchvision_nets import Wrapped
from export.builder import find_builder
from export.errors import RecipeInvalid, WeightsInvalid
from export.load import Order, describe, load_network
from export.weights import fit_state, read_renames, read_state
from export.zoo import ZOO
from service.backend.onnx import OnnxBackend
from service.manifest import MODEL_FILE, read_labels, read_manifest
from service.preprocessing import image
from tests.unit.export.samples import ready

_RECIPES = Path(__file__).parents[3] / "export" / "recipes"


def load(models: Path, *arguments: str, **described: str) -> int:
    flags = [f"--{name}={value}" for name, value in described.items()]
    return cli.main(["load", *arguments, *flags, "--models", str(models), "--max-batch-size", "2", "--threads", "1"])


@pytest.fixture
def described(tmp_path: Path) -> dict[str, Any]:
    """Three labels, and a preprocessing for pictures of 8 x 8."""
    (tmp_path / "labels.txt").write_text("cat\ndog\nfox\n", encoding="utf-8")
    (tmp_path / "preprocessing.toml").write_text(
        '[preprocessing]\nkind = "image"\nmode = "RGB"\nheight = 8\nwidth = 8\nresize = "exact"\nresize_px = 8\n'
        'interpolation = "bilinear"\nmean = [0.5, 0.4, 0.3]\nstd = [0.2, 0.3, 0.4]\n',
        encoding="utf-8",
    )
    return {"labels": tmp_path / "labels.txt", "preprocessing": str(tmp_path / "preprocessing.toml")}


# Networks that differ in depth alone from one that is loaded.
_SIBLINGS = ("vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "resnet34", "resnet101", "resnet152")
_SIBLINGS += ("resnet32-cifar", "resnet44-cifar", "resnet56-cifar", "resnet110-cifar")
_LOADED_WITH_WEIGHTS = ("googlenet", "resnet50")
_LOADED_WITH_FEWER_MODULES = ("googlenet", "googlenet-cifar")


def _to_load(*heights: int) -> list[str]:
    return [
        name
        for name, known in ZOO.items()
        if known.sizes.height in heights and name not in (*_SIBLINGS, *_LOADED_WITH_WEIGHTS)
    ]


@pytest.mark.parametrize("name", _to_load(28, 32))
def test_each_small_architecture_goes_from_its_name_to_ready(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "googlenet-cifar":
        # An Inception module, a pooling and one more: the other seven differ from them in width alone.
        monkeypatch.setattr(googlenet_cifar, "_MODULES", googlenet_cifar._MODULES[1:4])
    assert load(tmp_path, name) == 0
    assert ready(tmp_path / name / "1").labels[0] in ("0", "airplane")


@pytest.mark.parametrize("name", _to_load(224))
def test_each_large_architecture_goes_from_its_name_to_ready(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith("vgg"):
        # VGGs end in layers of AlexNet's kind, with half a gigabyte of weights: AlexNet's are enough.
        monkeypatch.setattr("export.architectures.torchvision_nets.models.get_model", _with_a_narrow_end)
    assert load(tmp_path, name, "--size", "64") == 0
    servable = ready(tmp_path / name / "1")
    assert servable.labels[:2] == ("tench", "goldfish")
    assert servable.inputs[0].shape == (-1, 64, 64, 3)


@pytest.mark.parametrize("name", [*_SIBLINGS, *_LOADED_WITH_FEWER_MODULES])
def test_a_sibling_is_built_as_its_name_describes_it(name: str) -> None:
    preprocessing, labels = describe(Order(name), presets.of_file(name, ""), [])
    assert labels[0] == ("airplane" if name.endswith("-cifar") else "tench")
    with torch.device("meta"):
        network = find_builder(name, sentences=False)(preprocessing.sizes(len(labels)))
        known = ZOO[name].build()
    assert [weight.shape for weight in network.parameters()] == [weight.shape for weight in known.parameters()]


def _with_a_narrow_end(name: str, *, num_classes: int, **options: object) -> nn.Module:
    with torch.device("meta"):
        module: nn.Module = torchvision_models.get_model_builder(name)(num_classes=1, **options)
    module.features.to_empty(device="cpu")
    for part in module.features.modules():
        if isinstance(part, nn.Conv2d | nn.BatchNorm2d):
            part.reset_parameters()
    layers = [type(part) for part in module.classifier]
    assert layers == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    module.classifier[0], module.classifier[3] = nn.Linear(512 * 7 * 7, 8), nn.Linear(8, 8)
    module.classifier[6] = nn.Linear(8, num_classes)
    return module


def _trained(name: str, size: int, **options: object) -> nn.Module:
    """Return torchvision's network with weights as a training leaves them: statistics and all."""
    torch.manual_seed(5)
    module: nn.Module = torchvision_models.get_model(name, weights=None, **options)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)
    with torch.no_grad():
        module.train()(torch.randn(8, 3, size, size))
    return module.eval()


def _photo(path: Path) -> Path:
    rng = np.random.default_rng(4)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    small.resize((400, 300), Image.Resampling.BICUBIC).save(path)
    return path


def _served(version: Path, picture: Path) -> np.ndarray:
    spec = read_manifest(version).preprocessing
    pixels = image.load(picture.read_bytes(), spec)
    return OnnxBackend(version / MODEL_FILE, "cpu").run([pixels[np.newaxis]])[0][0]


def test_resnet50_from_torchvisions_file_serves_torchvisions_own_probabilities(tmp_path: Path) -> None:
    module = _trained("resnet50", 64)
    weights = torchvision_models.ResNet50_Weights.IMAGENET1K_V2
    torch.save(module.state_dict(), tmp_path / weights.url.rsplit("/", 1)[-1])
    file = tmp_path / weights.url.rsplit("/", 1)[-1]
    preprocessing, _ = describe(Order("resnet50"), presets.of_file("resnet50", file.name), [])
    assert (preprocessing.spec.height, preprocessing.spec.resize_px) == (224, 232)  # as the V2 weights want it
    assert load(tmp_path, "resnet50", "--weights", str(file), "--size", "112") == 0
    version = tmp_path / "resnet50" / "1"
    assert read_manifest(version).preprocessing.resize_px == 116
    assert read_labels(version / "labels.txt") == tuple(weights.meta["categories"])
    picture = _photo(tmp_path / "photo.png")
    with Image.open(picture) as photo, torch.no_grad():
        prepared = weights.transforms(crop_size=112, resize_size=116)(photo)
        expected = module(prepared[np.newaxis]).softmax(1)[0].numpy()
    assert np.abs(_served(version, picture) - expected).max() < 1e-5
    assert ready(version).task == "image-classification"


def test_googlenets_second_scaling_happens_once(tmp_path: Path) -> None:
    module = _trained("googlenet", 64, transform_input=True, aux_logits=True, init_weights=True)
    weights = torchvision_models.GoogLeNet_Weights.IMAGENET1K_V1
    torch.save({"state_dict": module.state_dict()}, tmp_path / "theirs.pth")
    assert load(tmp_path, "googlenet", "--weights", str(tmp_path / "theirs.pth"), "--size", "112") == 0
    picture = _photo(tmp_path / "photo.png")
    with Image.open(picture) as photo, torch.no_grad():
        prepared = weights.transforms(crop_size=112, resize_size=128)(photo)
        expected = module(prepared[np.newaxis]).softmax(1)[0].numpy()
    assert np.abs(_served(tmp_path / "googlenet" / "1", picture) - expected).max() < 1e-5
    assert ready(tmp_path / "googlenet" / "1").labels[:2] == ("tench", "goldfish")


def tiny() -> nn.Module:
    """A user's own network; ``--from`` imports it from here."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def test_a_users_own_module(tmp_path: Path, described: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(tiny().state_dict(), tmp_path / "w.pt")
    assert load(tmp_path, *_own(tiny(), monkeypatch), "--weights", str(tmp_path / "w.pt"), **described) == 0
    assert ready(tmp_path / "make" / "1").labels == ("cat", "dog", "fox")
    provenance = read_manifest(tmp_path / "make" / "1").provenance
    assert (provenance.seed, provenance.dataset.name, provenance.recipe) == (None, "weights w.pt", "loaded")


def test_a_function_and_what_it_imports_are_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_whole.py").write_text("def make():\n    from mine_part import nn\n    return nn.Identity()\n")
    (tmp_path / "mine_part.py").write_text("from torch import nn\n")
    monkeypatch.chdir(tmp_path)
    before = [*sys.path]
    network = find_builder("mine_whole:make", sentences=False)(Sizes(3, 8, 8, 3))
    assert isinstance(network.inner, nn.Identity)
    assert sys.path == before
    for name in ("mine_whole", "mine_part"):
        del sys.modules[name]


def _own(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    holder = types.ModuleType("mine")
    holder.make = lambda: module
    monkeypatch.setitem(sys.modules, "mine", holder)
    return ["--from", "mine:make"]


def test_a_module_keeps_the_weights_with_which_it_was_returned(
    tmp_path: Path,
    described: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = tiny()
    with torch.no_grad():
        module[1].weight.fill_(1.5)
        module[1].running_mean.fill_(0.1)
    module.register_buffer("unused", torch.eye(2).to_sparse())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert load(tmp_path, *_own(module, monkeypatch), **described) == 0
    assert "the weights are those with which mine:make returned the network" in capsys.readouterr().out
    assert all(torch.equal(value.to_dense(), before[name].to_dense()) for name, value in module.state_dict().items())
    assert read_manifest(tmp_path / "make" / "1").provenance.dataset.name == "weights of mine:make"


class _WithState(nn.Module):
    """Computes in bfloat16, and has state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny()
        self.register_buffer("scale", torch.ones(1, dtype=torch.bfloat16))
        self.allowed_steps = 1

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        if state["steps"] > self.allowed_steps:
            raise RuntimeError(f"expected {self.allowed_steps}\nsteps")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale.float()


def test_a_module_with_bfloat16_and_state_that_is_no_tensor(
    tmp_path: Path, described: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _WithState()
    torch.save(module.state_dict(), tmp_path / "w.pt")
    assert load(tmp_path, *_own(module, monkeypatch), "--weights", str(tmp_path / "w.pt"), **described) == 0
    module.allowed_steps = 0
    with pytest.raises(WeightsInvalid, match=r"does not take the weights \(RuntimeError: expected 0 steps\)$"):
        fit_state(module, read_state(tmp_path / "w.pt")[0])


def test_a_module_that_ends_in_softmax_is_refused(
    tmp_path: Path,
    described: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = nn.Sequential(*tiny(), nn.Softmax(dim=1))
    torch.save(module.state_dict(), tmp_path / "w.pt")
    assert load(tmp_path, *_own(module, monkeypatch), "--weights", str(tmp_path / "w.pt"), **described) == 2
    assert "mine:make: returns probabilities, expected logits; remove its softmax" in capsys.readouterr().err
    assert not (tmp_path / "make").exists()


class _Odd(nn.Module):
    def __init__(self, answer: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.inner, self.answer = tiny(), answer

    def forward(self, inputs: torch.Tensor) -> object:
        return self.answer(self.inner(inputs))


def _only_pairs(logits: torch.Tensor) -> torch.Tensor:
    return logits.reshape(2, 3)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda logits: (logits, logits), "returns tuple, expected a tensor of logits; its forward must return them"),
        (lambda logits: {"logits": logits}, "returns dict, expected a tensor of logits"),
        (
            lambda logits: logits[:, 0],
            "returns shape (1,) for a batch of 1, expected (1, 3): one logit for each of the 3 labels",
        ),
        (lambda logits: logits.squeeze(0), "returns shape (3,) for a batch of 1, expected (1, 3)"),
        (lambda logits: logits[:, :2], "returns shape (1, 2) for a batch of 1, expected (1, 3)"),
        (lambda logits: logits * float("inf"), "answers NaN or infinity for 32 of 32 inputs; its weights are damaged"),
        (_only_pairs, "fails on a batch of 1 (RuntimeError: shape '[2, 3]' is invalid"),
        (
            lambda logits: logits.bfloat16(),
            "returns torch.bfloat16, expected torch.float32; end its forward in .float()",
        ),
        (lambda logits: logits.double(), "returns torch.float64, expected torch.float32; end its forward in .float()"),
        (nn.functional.dropout, "answers the same inputs differently each time; its forward is random or"),
        (lambda logits: logits - logits.mean(0), "answers an input differently in a batch; its forward must not mix"),
    ],
)
def test_a_module_that_does_not_answer_with_logits_is_refused_in_one_line(
    tmp_path: Path,
    described: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: Callable[[torch.Tensor], object],
    message: str,
) -> None:
    assert load(tmp_path, *_own(_Odd(answer), monkeypatch), **described) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"convserve-export: mine:make: {message}")
    assert complaint.count("\n") == 1
    assert not (tmp_path / "make").exists()


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_number_for_two_labels_is_refused_with_the_remedy(
    tmp_path: Path,
    described: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shape: tuple[int, ...],
) -> None:
    described["labels"].write_text("cat\ndog\n", encoding="utf-8")
    module = _Odd(lambda logits: logits[:, 0].sigmoid().reshape(shape))
    assert load(tmp_path, *_own(module, monkeypatch), **described) == 2
    assert "returns one number x for two labels; without its sigmoid" in capsys.readouterr().err


def test_a_note_tells_of_answers_that_a_sigmoid_may_give(
    tmp_path: Path,
    described: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    note = "note: all answers lie between 0 and 1; if a sigmoid gives them, remove it"
    assert load(tmp_path, *_own(_Odd(torch.sigmoid), monkeypatch), **described) == 0
    assert note in capsys.readouterr().out
    model = onnx.load(_foreign(tmp_path / "theirs.onnx", softmax=True))
    model.graph.node[-1].CopyFrom(onnx.helper.make_node("Sigmoid", ["m"], ["probabilities"]))
    onnx.save(model, tmp_path / "theirs.onnx")
    assert load(tmp_path, str(tmp_path / "theirs.onnx"), "--logits", **described) == 0
    assert note in capsys.readouterr().out


class _AlwaysTraining(nn.Sequential):
    def train(self, mode: bool = True) -> _AlwaysTraining:
        return super().train(True)


def test_a_module_that_stays_in_training_mode_is_called_so(
    tmp_path: Path,
    described: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = _AlwaysTraining(*tiny(), nn.Dropout())  # answers the same inputs differently each time as well
    assert load(tmp_path, *_own(module, monkeypatch), **described) == 2
    assert capsys.readouterr().err.startswith("convserve-export: the model is in training mode")


def test_names_that_rich_takes_for_emoji_are_shown_as_they_are(
    tmp_path: Path, described: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(tmp_path, "--from", "sys:two", **described) == 2
    assert capsys.readouterr().err.startswith("convserve-export: sys:two: ")


def test_a_module_is_taken_in_place_of_a_function(described: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module = tiny()
    mine = types.ModuleType("mine")
    mine.net = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", mine)
    assert load_network(Order("mine:net", **described)).network.inner is module


def test_what_was_compiled_is_loaded_of_a_compiled_module(
    described: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tiny()
    order = Order(_own(torch.compile(module), monkeypatch)[1], **described)
    assert load_network(order).network.inner is module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (ScriptModule(), r"returned ScriptModule, expected a torch\.nn\.Module, not TorchScript"),
        (nn.Sequential(nn.LazyLinear(3)), "returned lazy layers without sizes; run the network once before"),
    ],
)
def test_a_module_that_weights_cannot_be_loaded_into_is_refused(
    described: dict[str, Any], monkeypatch: pytest.MonkeyPatch, module: nn.Module, message: str
) -> None:
    with pytest.raises(RecipeInvalid, match=message):
        load_network(Order(_own(module, monkeypatch)[1], **described))


def test_a_module_that_leaves_the_program_is_refused(described: dict[str, Any]) -> None:
    with pytest.raises(RecipeInvalid, match=r"sys:exit: cannot be called \(SystemExit: "):
        load_network(Order("sys:exit", **described))


def test_pictures_of_another_size_than_the_weights_want_are_refused(
    tmp_path: Path, described: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    torch.save(module.state_dict(), tmp_path / "w.pt")
    order = Order(_own(module, monkeypatch)[1], str(tmp_path / "w.pt"), **described)
    with pytest.raises(RecipeInvalid, match=r"cannot take pictures of 8 x 8 in mode RGB \(.*\); it is given float32 "):
        load_network(order)
    assert load_network(dataclasses.replace(order, size_px=16)).labels == ("cat", "dog", "fox")


def test_timm_by_name(tmp_path: Path, described: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    more = Order("timm:little", **described)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RecipeInvalid, match="the package timm is not installed"):
        load_network(more)
    fake = types.ModuleType("timm")
    fake.is_model = lambda name: name == "little"
    asked = []
    fake.create_model = lambda name, **how: (asked.append((name, how)), tiny())[1]
    monkeypatch.setitem(sys.modules, "timm", fake)
    assert load_network(more).labels == ("cat", "dog", "fox")
    assert asked == [("little", {"pretrained": False, "num_classes": 3})]
    with pytest.raises(RecipeInvalid, match="timm has no such model"):
        load_network(Order("timm:large"))


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Order("nothing:here"), r"nothing:here: cannot be imported"),
        (Order("json:loads"), r"json:loads: no preprocessing is known; give --preprocessing"),
        (Order("json:loads", preprocessing="resnet20-cifar10"), r"json:loads: cannot be called \(TypeError: "),
        (Order("alexnet", size_px=16), r"cannot take pictures of 16 x 16 in mode RGB \("),
        (Order("textcnn-rand", preprocessing="resnet20-cifar10"), r"textcnn-rand: is a network for sentences"),
        (Order("os:getcwd", preprocessing="resnet20-cifar10"), r"returned str, expected a torch\.nn\.Module"),
        (Order("resnet21"), r"no architecture 'resnet21', did you mean "),
        (Order("textcnn-rand"), r"textcnn-rand: is a network for sentences; give --tokenizer FILE and --labels FILE"),
        (Order("lenet5", preprocessing="textcnn-mr"), r"textcnn-mr: is a recipe for sentences"),
        (
            Order("lenet5", preprocessing=str(_RECIPES / "textcnn-mr.toml")),
            r"textcnn-mr\.toml: is for sentences; give --tokenizer FILE",
        ),
        (Order("lenet5", labels=Path("nowhere")), r"nowhere: labels cannot be read"),
        (Order("lenet5", preprocessing="nowhere.toml"), r"nowhere\.toml: "),
        (Order("lenet5", preprocessing=str(_RECIPES.parents[1] / "pyproject.toml")), r"has no table \[preprocessing\]"),
        (Order("alexnet", preprocessing=str(_RECIPES / "lenet5-mnist.toml")), r"alexnet: no labels are known; give "),
    ],
)
def test_what_cannot_be_built_is_said(order: Order, message: str) -> None:
    with pytest.raises(RecipeInvalid, match=message):
        load_network(order)


@pytest.mark.parametrize(("network", "resized"), [("resnet18", 128), ("resnet20-cifar", 112)])
def test_pictures_of_another_size_are_cut_as_before(network: str, resized: int) -> None:
    spec = describe(Order(network, size_px=112), presets.of_file(network, ""), [])[0].spec
    assert (spec.height, spec.width, spec.resize_px) == (112, 112, resized)


def test_a_recipe_for_preprocessing_goes_before_torchvisions_own() -> None:
    loaded = load_network(Order("resnet18", preprocessing="resnet20-cifar10"))
    assert (loaded.labels[0], loaded.preprocessing.spec.height) == ("airplane", 32)


def test_the_digest_tells_weights_apart_and_random_ones_are_the_same_each_time(
    described: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tiny()
    orders = [Order("lenet5"), Order(_own(module, monkeypatch)[1], **described)]
    before = [load_network(order).digest for order in orders]
    with torch.no_grad():
        module[0].bias[0] += 1
    after = [load_network(order).digest for order in orders]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]


def test_preprocessing_that_is_no_table_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text("preprocessing = 3\n")
    with pytest.raises(RecipeInvalid, match=r"odd\.toml: preprocessing: expected a table, got 3"):
        load_network(Order("lenet5", preprocessing=str(tmp_path / "odd.toml")))


def test_weights_that_cannot_be_fetched_are_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(
        WeightsInvalid, match=r"^ResNet18_Weights\.IMAGENET1K_V1: https://.*no network.*--weights FILE$"
    ):
        load_network(Order("resnet18", weights="IMAGENET1K_V1"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"cat\n\ndog\n", r"labels\.txt, line 2: is empty, expected a label"),
        (b"cat\ndog\n \n", r"labels\.txt, line 3: is empty, expected a label"),
        (b"cat\n", r"labels\.txt: has 1 labels, expected at least two"),
        (b"cat\nd\xf6g\n", r"labels\.txt: labels cannot be read"),
    ],
)
def test_labels_that_tell_no_class_are_refused(tmp_path: Path, lines: bytes, message: str) -> None:
    (tmp_path / "labels.txt").write_bytes(lines)
    with pytest.raises(RecipeInvalid, match=message):
        load_network(Order("lenet5", labels=tmp_path / "labels.txt"))


def test_a_byte_order_mark_is_no_part_of_a_label(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert load_network(Order("lenet5", labels=tmp_path / "labels.txt")).labels == ("cat", "dog")


def test_an_unknown_name_of_weights_is_answered_with_the_known_ones() -> None:
    with pytest.raises(WeightsInvalid, match=r"resnet50, which has IMAGENET1K_V1, IMAGENET1K_V2 and DEFAULT"):
        load_network(Order("resnet50", weights="IMAGENET1K_V3"))


def test_the_name_of_a_published_file_tells_its_preprocessing_with_another_suffix_too() -> None:
    for file in ("resnet50-11ad3fa6.pth", "resnet50-11ad3fa6.safetensors"):
        assert presets.of_file("resnet50", file) is torchvision_models.ResNet50_Weights.IMAGENET1K_V2
    assert presets.of_file("resnet50", "mine.pth") is torchvision_models.ResNet50_Weights.IMAGENET1K_V1


def test_unknown_weights_are_refused_with_preprocessing_and_labels_given_too(
    tmp_path: Path, described: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(tmp_path, "resnet18", "--weights", "/no/such.pth", **described) == 2
    assert "/no/such.pth: no such file and no weights of resnet18, which has IMAGENET1K_V1" in capsys.readouterr().err
    assert load(tmp_path, "resnet20-cifar", "--weights", "/no/such.pth", **described) == 2
    assert "/no/such.pth: no such file" in capsys.readouterr().err
    assert load(tmp_path, "theirs.onnx", "--weights", "/no/such.pth", **described) == 2
    assert "theirs.onnx: an ONNX file holds its own weights" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/[0-9]*"))


def test_named_weights_are_taken_with_other_preprocessing_and_labels(
    described: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = torchvision_models.resnet18(num_classes=3).state_dict()
    monkeypatch.setattr(torchvision_models.ResNet18_Weights, "get_state_dict", lambda *_, **__: theirs)
    loaded = load_network(Order("resnet18", weights="IMAGENET1K_V1", **described))
    assert torch.equal(loaded.network.state_dict()["inner.fc.weight"], theirs["fc.weight"])
    assert loaded.labels == ("cat", "dog", "fox")


def test_named_weights_bring_their_own_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torchvision_models.MobileNet_V2_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda *_, **__: torchvision_models.mobilenet_v2().state_dict())
    spec = load_network(Order("mobilenet_v2", weights="IMAGENET1K_V2")).preprocessing.spec
    assert (spec.height, spec.resize_px) == (224, 232)


def _two(first: str = "a", second: str = "b") -> nn.Module:
    module = nn.Module()
    module.add_module(first, nn.Conv2d(1, 2, 3, bias=False))
    module.add_module(second, nn.BatchNorm2d(2))
    return module


@pytest.mark.parametrize(
    ("wrapped", "noted"),
    [
        (lambda state: state, []),
        (lambda state: {"state_dict": state, "epoch": 3}, ["found under 'state_dict'"]),
        (
            lambda state: {"model": {f"module.{name}": value for name, value in state.items()}, "best": 0.9},
            ["found under 'model'", "the prefix 'module.' was removed"],
        ),
        (lambda state: {name: value for name, value in state.items() if "num_batches" not in name}, []),
        (
            lambda state: {f"_orig_mod.module.{name}": value for name, value in state.items()},
            ["the prefix '_orig_mod.' was removed", "the prefix 'module.' was removed"],
        ),
        (
            lambda state: {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in state.items()},
            ["the prefix 'module.' was removed"],
        ),
        (lambda state: {"state_dict_ema": state}, ["found under 'state_dict_ema'"]),
        (lambda state: {name: value.double() for name, value in state.items()} | {"epoch": 3}, []),
    ],
)
def test_checkpoints_are_unwrapped(tmp_path: Path, wrapped: Callable[[dict], dict], noted: list[str]) -> None:
    torch.manual_seed(1)
    source, target = _two(), _two()
    torch.save(wrapped(source.state_dict()), tmp_path / "w.pt")
    state, notes = read_state(tmp_path / "w.pt")
    assert all(words in note for words, note in zip(noted, notes, strict=True))
    assert fit_state(target, state) == []
    assert torch.equal(target.a.weight, source.a.weight)


def test_names_beneath_a_trainers_prefix_fit_and_what_stands_beside_them_is_left_out() -> None:
    torch.manual_seed(1)
    source, target = _two(), _two()
    state = {f"model.{name}": value for name, value in source.state_dict().items()}
    assert fit_state(target, {"teacher.a.weight": torch.ones(2)} | state) == [
        "the names fit without the prefix 'model.'; what lies outside it was left out: teacher.a.weight"
    ]
    assert torch.equal(target.a.weight, source.a.weight)
    for less in ("nothing", "num_batches_tracked"):
        rest = {name: value for name, value in state.items() if not name.endswith(less)}
        assert fit_state(_two(), rest) == ["the names fit without the prefix 'model.'"]
    averaged = {f"ema.{name}": value + 1 for name, value in source.state_dict().items()}
    with pytest.raises(WeightsInvalid, match=r"beneath each of the prefixes 'model\.', 'ema\.'; save what one"):
        fit_state(target, state | averaged)


def test_names_that_only_training_needs_are_left_out_and_told() -> None:
    target, state = _two(), _two().state_dict()
    notes = fit_state(target, {**state, "aux.weight": torch.ones(1)}, ignored=("a.", "aux."))
    assert notes == ["ignored, because only training needs them: aux.weight"]
    assert torch.equal(target.a.weight, state["a.weight"])
    counted = {name: torch.ones(1) for name in ("total_ops", "a.total_ops", "a.total_params")}
    assert fit_state(target, state | counted) == [f"ignored, because only training needs them: {', '.join(counted)}"]


_SAFE_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_SAFE_DTYPES |= {torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"}
_SAFE_DTYPES |= {torch.uint8: "U8", torch.bool: "BOOL"}


def _safetensors(state: dict[str, torch.Tensor]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    content = b""
    for name, value in state.items():
        raw = bytes(value.contiguous().flatten().view(torch.uint8).tolist())
        offsets = [len(content), len(content) + len(raw)]
        table[name] = {"dtype": _SAFE_DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": offsets}
        content += raw
    header = json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header + content


def test_safetensors_are_read(tmp_path: Path) -> None:
    held = {name: torch.arange(2).to(dtype) for dtype, name in _SAFE_DTYPES.items()}
    held |= {"scalar": torch.tensor(2.5), "table": torch.arange(6.0).reshape(2, 3), "nothing": torch.empty(0, 3)}
    (tmp_path / "w.safetensors").write_bytes(_safetensors(held))
    state, notes = read_state(tmp_path / "w.safetensors")
    assert notes == []
    assert [*state] == [*held]
    assert all(state[name].dtype == value.dtype and torch.equal(state[name], value) for name, value in held.items())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(_safetensors({"a": torch.zeros(3)})[:-1], id="cut short"),
        pytest.param(b"\xff" * 8 + b"{}", id="long"),
        pytest.param((2).to_bytes(8, "little") + b"[]", id="no table"),
        pytest.param((7).to_bytes(8, "little") + b'{"a":3}', id="no tensor"),
        pytest.param((8).to_bytes(8, "little") + b'{"a":{}}', id="no type"),
        pytest.param(_safetensors({"a": torch.zeros(3)}).replace(b"[3]", b"[4]"), id="greater shape"),
        pytest.param(_safetensors({"a": torch.zeros(3)}).replace(b"[3]", b"[2]"), id="lesser shape"),
        pytest.param(_safetensors({"a": torch.zeros(1, 1, 3)}).replace(b"[1, 1, 3]", b"[-1,-3,1]"), id="no shape"),
        pytest.param(_safetensors({"a": torch.zeros(3)}).replace(b"[0, 12]", b"[-1,11]"), id="in its table"),
        pytest.param(
            _safetensors({"a": torch.zeros(2)}).replace(b'[2], "data_offsets": [0, 8]', b'[-1],"data_offsets": [4, 0]'),
            id="ends before it begins",
        ),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsInvalid, match="is not a complete safetensors file; download or save it again"):
        read_state(tmp_path / "w.safetensors")


def test_safetensors_of_a_type_that_is_not_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(_safetensors({"a": torch.zeros(3)}).replace(b"F32", b"F8 "))
    with pytest.raises(WeightsInvalid, match=r"has tensors of type F8 ; save them as F32$"):
        read_state(tmp_path / "w.safetensors")


@pytest.mark.parametrize("network", [["lenet5", "--weights", "damaged/lenet5.onnx"], ["damaged/lenet5.onnx"]])
def test_a_version_that_exists_is_told_before_weights_are_read(
    tmp_path: Path, network: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("damaged", "models/lenet5/1"):
        Path(folder).mkdir(parents=True)
    Path("damaged/lenet5.onnx").write_text("damaged")
    arguments = [*network, "--preprocessing", "lenet5-mnist", "--version"]
    assert load(Path("models"), *arguments, "1") == 2
    assert "models/lenet5/1: exists already; leave --version out to take" in capsys.readouterr().err
    assert load(Path("models"), *arguments, "2") == 2
    assert "damaged/lenet5.onnx: " in capsys.readouterr().err
    assert [path.name for path in Path("models/lenet5").iterdir()] == ["1"]


def test_a_torchscript_archive_is_refused_with_what_helps(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:  # as torch.jit.save writes, so far as torch.load looks
        for name, content in (("data.pkl", b"\x80\x02}."), ("constants.pkl", b"\x80\x02)."), ("version", b"3\n")):
            archive.writestr(f"w/{name}", content)
    message = r"TorchScript archive; save torch\.jit\.load\(FILE\)\.state_dict\(\)"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(WeightsInvalid, match=message):
            read_state(tmp_path / "w.pt")
    assert not warned  # it would be printed beside the one line


def test_weights_with_one_wrong_byte_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # torch.load alone reads it
    path.write_bytes(content)
    with pytest.raises(
        WeightsInvalid, match=r"w\.pt: is damaged, its checksum does not match; save or download it again"
    ):
        read_state(path)


def test_a_folder_in_place_of_weights_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(WeightsInvalid, match=r": Is a directory$"):
        read_state(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.to(torch.complex64), "'a.weight' is complex64; save them as dense float32"),
        (lambda value: (value * 100).to(torch.int8), "'a.weight' is int8; "),
        (lambda value: value > 0, "'a.weight' is bool; "),
        (lambda value: value.to_sparse(), "'a.weight' is sparse; "),
        (lambda value: value.to("meta"), "'a.weight' is without values; "),
        (lambda value: value.to(torch.float8_e5m2), "'a.weight' is float8_e5m2; "),
    ],
)
def test_weights_that_a_cast_would_make_others_of_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    state = _two().state_dict()
    state["a.weight"] = change(state["a.weight"])
    with pytest.raises(WeightsInvalid, match=re.escape(message)):
        fit_state(_two(), state)


def test_weights_of_another_number_of_classes_are_answered_with_the_remedy() -> None:
    state = {**nn.Linear(4, 7).state_dict()}
    with pytest.raises(
        WeightsInvalid,
        match=r"'bias' is \(7,\), expected \(3,\); the weights have 7 classes, so give --labels FILE with as",
    ):
        fit_state(nn.Linear(4, 3), state)
    with pytest.raises(WeightsInvalid, match=r"expected \(3, 4\); name the network that they come from$"):
        fit_state(nn.Linear(4, 3), nn.Linear(5, 3).state_dict())
    with pytest.raises(WeightsInvalid, match=r"expected \(3,\); the weights give one number, so .* --from and"):
        fit_state(nn.Linear(4, 3), nn.Linear(4, 1).state_dict())
    with pytest.raises(
        WeightsInvalid, match=r"'theirs' \(7, 4\) for 'weight' \(3, 4\); the weights have 7 classes, so"
    ):
        fit_state(nn.Linear(4, 3), {"theirs": state["weight"], "bias of theirs": state["bias"]})
    with pytest.raises(WeightsInvalid, match=r"for 'weight' \(3, 4\); name the .*, or give --renames FILE$"):
        fit_state(nn.Linear(4, 3), {"theirs": state["weight"], "bias of theirs": state["bias"], "more": torch.ones(1)})


def test_weights_that_are_no_numbers_are_named() -> None:
    state = _two().state_dict()
    state["b.bias"][0] = float("nan")
    with pytest.raises(WeightsInvalid, match=r"weights are NaN.*: b\.bias$"):
        fit_state(_two(), state)


def test_foreign_names_by_renaming_and_by_order(tmp_path: Path) -> None:
    source, renamed = _two("x", "y"), _two()
    lines = [f"{name} {name.replace('x', 'a').replace('y', 'b')}\n" for name in source.state_dict()]
    (tmp_path / "names.txt").write_text("# theirs ours\n" + "".join(lines), encoding="utf-8")
    assert fit_state(renamed, source.state_dict(), read_renames(tmp_path / "names.txt")) == [
        "6 names were changed by --renames"
    ]
    assert torch.equal(renamed.a.weight, source.x.weight)
    theirs = {name.replace("x.weight", "x.kernel"): value for name, value in source.state_dict().items()}
    for state in (theirs, {name: value for name, value in theirs.items() if "num_batches" not in name}):
        ordered = _two()
        assert fit_state(ordered, state) == [
            "no name fits, but all 5 shapes agree in order, so tensors were assigned by order"
        ]
        assert torch.equal(ordered.a.weight, source.x.weight)


def test_safetensors_are_not_taken_by_order_because_they_are_sorted_by_name(tmp_path: Path) -> None:
    state = ZOO["lenet5"].build().state_dict()
    content = _safetensors({f"theirs.{number}": value for number, value in enumerate(state.values())})
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsInvalid, match=r"^no name fits .* sorts by name; name the network .*, or give --renames"):
        load_network(Order("lenet5", weights=str(tmp_path / "w.safetensors")))


def test_batch_norm_in_another_order_is_not_taken_by_order() -> None:
    """All four tensors of it have one shape; some converters write its statistics first."""
    state = _two("x", "y").state_dict()
    first = ["x.weight", "y.running_mean", "y.running_var", "y.weight", "y.bias"]
    with pytest.raises(WeightsInvalid, match=r"by order 'y\.running_mean' would become 'b\.weight'"):
        fit_state(_two(), {name: state[name] for name in first})


def test_a_layer_that_reads_weights_by_its_version_is_told_it(tmp_path: Path) -> None:
    """MNASNet refuses weights of no version."""
    source, target = (torchvision_models.mnasnet0_5(num_classes=2) for _ in range(2))
    torch.save(source.state_dict(), tmp_path / "w.pt")
    fit_state(target, read_state(tmp_path / "w.pt")[0])
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


@pytest.mark.parametrize(
    ("renames", "message"),
    [
        ({"x.weight": "a.weight", "y.weight": "a.weight"}, r"gives the name 'a\.weight' to two tensors of the weights"),
        ({"x.weight": "b.weight"}, r"gives the name 'b\.weight' to two tensors of the weights"),
        ({"x.weight": "a.weight", "z.weight": "c"}, r"has names that the weights do not have: z\.weight$"),
    ],
)
def test_a_renaming_that_does_not_fit_is_refused(renames: dict[str, str], message: str) -> None:
    state = {**_two().state_dict(), "x.weight": torch.zeros(1), "y.weight": torch.zeros(1)}
    del state["a.weight"]
    with pytest.raises(WeightsInvalid, match=f"^--renames {message}"):
        fit_state(_two(), state, renames)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x a\n# y\nx b\n", ", line 3: 'x' is renamed twice"),
        (b"x a\n\nx b c\n", ", line 3: has 3 names, expected a name in the weights and the network's name"),
        (b"\xff", r": cannot be read \('utf-8' codec"),
        (None, r": cannot be read \(.*No such file"),
    ],
)
def test_a_file_of_renames_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(WeightsInvalid, match=rf"names\.txt{message}"):
        read_renames(tmp_path / "names.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "b.bias"}, r"missing: b\.bias; name the network that they come"),
        (lambda s: {**s, "b.bias": torch.tensor(1.0)}, r"'b\.bias' is \(\), expected \(2,\); name the network"),
        (lambda s: {**s, "c.weight": torch.zeros(1)}, r"unexpected: c\.weight; .* without what nothing needs$"),
        (
            lambda s: {k.replace("b.bias", "b.beta"): v for k, v in s.items()},
            r"missing: b\.bias; unexpected: b\.beta; name the network that they come from, or give --renames FILE$",
        ),
        # Not the number of classes: two of them, or another kernel as well.
        (
            lambda s: {**s, "a.weight": torch.zeros(7, 1, 3, 3), "b.bias": torch.zeros(5)},
            r"expected \(2,\); name the network that they come from$",
        ),
        (
            lambda s: {**s, "a.weight": torch.zeros(7, 1, 5, 5), "b.bias": torch.zeros(7)},
            r"expected \(2,\); name the network that they come from$",
        ),
        (lambda s: s | {f"ema.{k}": v for k, v in s.items()}, r"unexpected: ema\.a\.weight, "),
        (
            lambda s: {**s, "a.weight": torch.zeros(2, 1, 5, 5)},
            r"'a\.weight' is \(2, 1, 5, 5\), expected \(2, 1, 3, 3\)",
        ),
        (lambda s: {f"z{k}": v for k, v in list(s.items())[:3]}, r"no name fits .* the shapes differ, 3 tensors for 5"),
    ],
)
def test_weights_that_do_not_fit_are_listed(change: Callable[[dict], dict], message: str) -> None:
    with pytest.raises(WeightsInvalid, match=message):
        fit_state(_two(), change(_two().state_dict()))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (nn.Linear(1, 1), "holds more than tensors and plain values, perhaps a whole model"),
        ({"epoch": 1}, "holds no state dict; expected tensors by name, at the top or under state_dict, "),
        ({"n_averaged": torch.tensor(3)}, "holds no state dict"),
        ([torch.zeros(1)], "holds no state dict"),
        (b"nonsense", r"is not a file that torch\.save wrote \(UnpicklingError\)"),
        (b"conv1.weight: 0.1 0.2\n", "holds more than"),
        (b"h\x05.", r"is not a file that torch\.save wrote \(KeyError\); save"),
        (b"(", r"is not a file that torch\.save wrote \(EOFError\)"),
        (b"\x80\x02.", "is not a file that"),
        (b"\x80\x02K", "is not a file that"),
        (b"\x80\x02}s.", "is not a file that"),
        (b"\x80\x02]Q.", "holds more than"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, held: object, message: str) -> None:
    if isinstance(held, bytes):
        (tmp_path / "w.pt").write_bytes(held)
    else:
        torch.save(held, tmp_path / "w.pt")
    with pytest.raises(WeightsInvalid, match=rf"/w\.pt: {message}"):
        read_state(tmp_path / "w.pt")
    for name in ("nowhere.pt", "nowhere.safetensors"):
        with pytest.raises(WeightsInvalid, match=f"{name}: [nN]o such file"):
            read_state(tmp_path / name)


def test_a_file_that_is_cut_short_or_another_kind_of_file_is_called_so(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for content in (whole[: len(whole) // 2], b"version https://git-lfs.github.com/spec/v1\n", b"\x89HDF\r\n"):
        (tmp_path / "w.pt").write_bytes(content)
        with pytest.raises(WeightsInvalid, match=r"w\.pt: is not a file that torch\.save wrote"):
            read_state(tmp_path / "w.pt")


def test_a_note_tells_of_averaged_weights_that_were_not_taken(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(1)}, "ema": {"w": torch.ones(1)}, "epoch": 3}, tmp_path / "w.pt")
    state, notes = read_state(tmp_path / "w.pt")
    assert not state["w"].any()
    assert notes == ["the state dict was found under 'model' of the checkpoint, which also has ema"]


def _foreign(
    path: Path, *, batch: int | str = "n", softmax: bool = False, classes: int = 3, dtype: str = "float32"
) -> Path:
    torch.manual_seed(2)
    weights = {"w": torch.randn(4, 3, 3, 3), "v": torch.randn(144, classes) / 12}
    helper = onnx.helper
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["m" if softmax else "probabilities"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["m"], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("images", kind, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("probabilities", kind, [batch, classes])],
        [onnx.numpy_helper.from_array(value.numpy().astype(dtype), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("softmax", [True, False])
def test_a_file_made_elsewhere_becomes_a_verified_version(
    tmp_path: Path, described: dict[str, Any], softmax: bool
) -> None:
    path = _foreign(tmp_path / "theirs.onnx", softmax=softmax)
    assert load(tmp_path, str(path), *([] if softmax else ["--logits"]), **described) == 0
    assert ready(tmp_path / "theirs" / "1").verified
    assert read_manifest(tmp_path / "theirs" / "1").provenance.dataset.name == "file theirs.onnx"


@pytest.mark.parametrize(("dtype", "softmax"), [("float16", False), ("float16", True)])
def test_a_file_in_another_precision_becomes_a_version_that_answers_in_float32(
    tmp_path: Path, described: dict[str, Any], dtype: str, softmax: bool
) -> None:
    path = _foreign(tmp_path / "theirs.onnx", softmax=softmax, dtype=dtype)
    arguments = ["--tolerance", "0.001", *([] if softmax else ["--logits"])]
    assert load(tmp_path, str(path), *arguments, **described) == 0
    assert ready(tmp_path / "theirs" / "1").outputs[0].datatype == "FP32"


def test_a_file_with_answers_in_double_precision(tmp_path: Path, described: dict[str, Any]) -> None:
    path = _add(tmp_path / "theirs.onnx", _NODE("Cast", ["m"], ["probabilities"], to=onnx.TensorProto.DOUBLE))
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(model, path)
    assert load(tmp_path, path, "--logits", **described) == 0
    assert ready(tmp_path / "theirs" / "1").outputs[0].datatype == "FP32"


def test_a_file_that_returns_no_floats_is_refused_with_the_remedy(
    tmp_path: Path, described: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = _add(tmp_path / "theirs.onnx", _NODE("ArgMax", ["m"], ["probabilities"], axis=1))
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    onnx.save(model, path)
    assert load(tmp_path, path, **described) == 2
    assert "probabilities INT64 [-1, 1], expected FP32 or FP16 or FP64 (N, K); export" in capsys.readouterr().err


def test_a_version_is_proven_with_the_tolerance_that_is_given(
    tmp_path: Path,
    described: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own, foreign = _own(tiny(), monkeypatch), [str(_foreign(tmp_path / "theirs.onnx")), "--logits"]
    for version, network in enumerate((own, foreign), start=1):
        assert load(tmp_path, *network, "--name", "m", "--tolerance", "1e-12", **described) == 2
        complaint = " ".join(capsys.readouterr().err.split())
        assert re.search(r"expected at most 1e-12; if the network .* give a greater --tolerance$", complaint)
        assert load(tmp_path, *network, "--name", "m", "--tolerance", "0.001", **described) == 0
        assert read_manifest(tmp_path / "m" / str(version)).parity.tolerance == 0.001


def test_an_old_file_whose_weights_stand_among_its_inputs(tmp_path: Path, described: dict[str, Any]) -> None:
    model = onnx.load(_foreign(tmp_path / "theirs.onnx"))
    model.ir_version, model.opset_import[0].version = 3, 9
    for weight in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    onnx.save(model, tmp_path / "theirs.onnx")
    assert load(tmp_path, str(tmp_path / "theirs.onnx"), "--logits", **described) == 0
    assert ready(tmp_path / "theirs" / "1").verified


@pytest.mark.parametrize("dimensions", [None, ("n", "k")])
def test_a_file_that_does_not_say_how_much_it_answers(
    tmp_path: Path, described: dict[str, Any], dimensions: tuple[str, ...] | None
) -> None:
    model = onnx.load(_foreign(tmp_path / "theirs.onnx"))
    name = model.graph.output[0].name
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dimensions))
    onnx.save(model, tmp_path / "theirs.onnx")
    assert load(tmp_path, str(tmp_path / "theirs.onnx"), "--logits", **described) == 0
    assert ready(tmp_path / "theirs" / "1").verified


def test_a_file_whose_branches_read_its_input(tmp_path: Path, described: dict[str, Any]) -> None:
    model = onnx.load(_foreign(tmp_path / "theirs.onnx"))
    graph, given = model.graph, model.graph.input[0].name

    def branch(name: str) -> onnx.GraphProto:
        out = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph([onnx.helper.make_node("Identity", [given], [name])], name, [], [out])

    for node in graph.node:
        node.input[:] = ["chosen" if name == given else name for name in node.input]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "which"))
    chosen = onnx.helper.make_node(
        "If", ["which"], ["chosen"], then_branch=branch("probabilities"), else_branch=branch("no")
    )
    graph.node.insert(0, chosen)
    onnx.save(model, tmp_path / "theirs.onnx")
    assert load(tmp_path, str(tmp_path / "theirs.onnx"), "--logits", **described) == 0
    assert ready(tmp_path / "theirs" / "1").verified


def _add(path: Path, *nodes: onnx.NodeProto, **constants: np.ndarray) -> str:
    """Put nodes behind the file of :func:`_foreign`; the first takes ``m``, and the last gives the answer."""
    model = onnx.load(_foreign(path))
    model.graph.node[-1].output[0] = "m"
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.save(model, path)
    return str(path)


_NODE = onnx.helper.make_node


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([_NODE("Reshape", ["m", "shape"], ["probabilities"])], "fails on a batch of 32 ("),
        ([_NODE("Mul", ["m", "nothing"], ["probabilities"])], "answers NaN or infinity for 32 of 32 inputs; "),
        (
            [_NODE("RandomNormalLike", ["m"], ["noise"]), _NODE("Add", ["m", "noise"], ["probabilities"])],
            "answers the same inputs differently each time; ",
        ),
        (
            [_NODE("ReduceMean", ["m"], ["mean"], axes=[0]), _NODE("Sub", ["m", "mean"], ["probabilities"])],
            "answers an input differently in a batch; ",
        ),
    ],
)
def test_a_file_whose_answers_depend_on_more_than_their_input_is_one_line(
    tmp_path: Path,
    described: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    nodes: list[onnx.NodeProto],
    message: str,
) -> None:
    path = _add(tmp_path / "theirs.onnx", *nodes, shape=np.array([1, 3]), nothing=np.full(1, np.nan, np.float32))
    assert load(tmp_path, path, "--logits", **described) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith(f"convserve-export: {path}: {message}")
    assert complaint.count("\n") == 1
    assert not (tmp_path / "theirs").exists()


def test_a_file_with_nodes_in_any_order_as_the_float16_converter_leaves_them(
    tmp_path: Path, described: dict[str, Any]
) -> None:
    model = onnx.load(_foreign(tmp_path / "theirs.onnx"))
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "theirs.onnx")
    assert load(tmp_path, str(tmp_path / "theirs.onnx"), "--logits", **described) == 0
    assert ready(tmp_path / "theirs" / "1").verified


def _spell(model: onnx.ModelProto) -> None:
    """Put the last node into a function of the file, as torch's exporter may."""
    last = model.graph.node.pop()
    opset = onnx.helper.make_opsetid("", 17)
    model.functions.append(onnx.helper.make_function("mine", "Last", last.input, last.output, [last], [opset]))
    model.graph.node.append(onnx.helper.make_node("Last", last.input, last.output, domain="mine"))
    model.opset_import.append(onnx.helper.make_opsetid("mine", 1))


def _let_height_and_width_open(model: onnx.ModelProto) -> None:
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"axis {axis}"


def _enlarge(model: onnx.ModelProto) -> None:
    """Answer with logits whose exponentials no float holds."""
    weights = model.graph.initializer[1]
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 1e5, weights.name))


@pytest.mark.parametrize("change", [_spell, _let_height_and_width_open, _enlarge, None])
def test_a_file_with_functions_open_sizes_great_logits_or_weights_beside_it(
    tmp_path: Path, described: dict[str, Any], change: Callable[[onnx.ModelProto], None] | None
) -> None:
    model = onnx.load(_foreign(tmp_path / "theirs.onnx"))
    if change is not None:
        change(model)
    onnx.save(model, tmp_path / "theirs.onnx", save_as_external_data=change is None, size_threshold=0)
    assert load(tmp_path, str(tmp_path / "theirs.onnx"), "--logits", **described) == 0
    assert ready(tmp_path / "theirs" / "1").verified


def test_a_file_with_sparse_weights(tmp_path: Path, described: dict[str, Any]) -> None:
    model = onnx.load(_foreign(tmp_path / "theirs.onnx"))
    (dense,) = (each for each in model.graph.initializer if each.name == "v")
    values = onnx.numpy_helper.to_array(dense).ravel()
    model.graph.initializer.remove(dense)
    places = onnx.numpy_helper.from_array(np.arange(values.size), "places")
    model.graph.sparse_initializer.append(
        onnx.helper.make_sparse_tensor(onnx.numpy_helper.from_array(values, "v"), places, dense.dims)
    )
    onnx.save(model, tmp_path / "theirs.onnx")
    assert load(tmp_path, str(tmp_path / "theirs.onnx"), "--logits", **described) == 0
    assert ready(tmp_path / "theirs" / "1").verified


_FLOAT, _VALUE = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info


@pytest.mark.parametrize(
    ("takes", "returns", "nodes", "message"),
    [
        ({"images": _FLOAT, "more": _FLOAT}, ["m"], [], "has 2 inputs and 1 outputs, expected one of each"),
        ({"images": _FLOAT}, ["m", "r"], [], "has 1 inputs and 2 outputs, expected one of each"),
        (
            {"whole": onnx.TensorProto.INT32},
            ["m"],
            [_NODE("Cast", ["whole"], ["images"], to=1)],
            "expected FP32 or FP16 or FP64 (N, 3, ",
        ),
        ({"flat": _FLOAT}, ["m"], [_NODE("Reshape", ["flat", "shape"], ["images"])], "FP64 (N, 3, 8, 8); export it"),
        (
            {"images": _FLOAT},
            ["map"],
            [_NODE("Unsqueeze", ["m", "two"], ["map"])],
            "returns (3, 1) numbers per input, ",
        ),
        (
            {"images": _FLOAT},
            ["n"],
            [_NODE("ReduceSum", ["m", "one"], ["n"], keepdims=0)],
            "returns () numbers per input",
        ),
    ],
    ids=["two inputs", "two outputs", "another type", "another rank", "a map", "one number"],
)
def test_a_file_that_is_no_such_classifier_is_refused(
    tmp_path: Path,
    described: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    takes: dict[str, int],
    returns: list[str],
    nodes: list[onnx.NodeProto],
    message: str,
) -> None:
    path = Path(
        _add(tmp_path / "theirs.onnx", *nodes, shape=np.array([-1, 3, 8, 8]), one=np.array([1]), two=np.array([2]))
    )
    graph = (model := onnx.load(path)).graph
    del graph.input[:], graph.output[:]
    graph.input.extend(
        _VALUE(name, kind, ["n", "numbers"] if name == "flat" else ["n", 3, 8, 8]) for name, kind in takes.items()
    )
    graph.output.extend(_VALUE(name, _FLOAT, None) for name in returns)
    onnx.save(model, path)
    assert load(tmp_path, str(path), "--logits", **described) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"batch": 1}, ["--logits"], "takes only batches of 1; export it with a dynamic batch"),
        ({}, [], "does not return probabilities; give --logits"),
        ({"softmax": True}, ["--logits"], "returns probabilities already; leave --logits out"),
        ({}, ["--logits", "--size", "9"], "expected FP32 or FP16 or FP64 (N, 3, 9, 9); export it with such an input"),
        ({"classes": 4}, ["--logits"], "returns (4,) numbers per input, expected one for each of the 3 labels"),
    ],
)
def test_a_file_that_cannot_be_wrapped_is_refused(
    tmp_path: Path,
    described: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    changes: dict,
    arguments: list[str],
    message: str,
) -> None:
    path = _foreign(tmp_path / "theirs.onnx", **changes)
    assert load(tmp_path, str(path), *arguments, **described) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "theirs").glob("[0-9]*"))


def test_a_file_that_is_not_there_is_said_before_anything_is_asked_about_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(tmp_path, "/no/such.onnx") == 2
    assert capsys.readouterr().err == "convserve-export: /no/such.onnx: no such file\n"


@pytest.mark.parametrize("name", ["resnet20-cifar", "resnet110-cifar", "googlenet-cifar"])
def test_random_weights_answer_differently_for_different_pictures(name: str) -> None:
    loaded = load_network(Order(name))
    assert not loaded.network.training
    assert any("random" in note for note in loaded.notes)
    with torch.no_grad():
        answers = loaded.network(torch.randn(8, 3, 32, 32)).softmax(1)
    assert answers.max() < 0.999
    assert answers.std(0).max() > 1e-4


def test_preprocessing_and_labels_of_a_recipe_are_named() -> None:
    loaded = load_network(Order("resnet20-cifar"))
    assert loaded.notes[0] == (
        "preprocessing and labels are those of the recipe resnet20-cifar10 "
        "(mean 0.4914, 0.4822, 0.4465, std 0.247, 0.2435, 0.2616); --preprocessing overrides them"
    )
    assert isinstance(load_network(Order("resnet18", size_px=32)).network, Wrapped)
    assert Sizes(3).height == 0

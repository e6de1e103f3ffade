"""Loads a network that was trained elsewhere: builds it by name, loads its weights, describes it for publishing."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export import presets
from export.architectures import Network
from export.architectures.torchvision_nets import SCALES_TWICE, Wrapped
from export.builder import SENTENCES, TIMM, find_builder
from export.classifier import Classifier
from export.data.inputs import Preprocessing, proving_inputs
from export.errors import RecipeInvalid
from export.recipe import find_recipe
from export.safetensors import SUFFIX
from export.sentence_nets import as_textcnn, read_tokenizer
from export.verify import TOLERANCE
from export.weights import fit_state, read_renames, read_state
from export.zoo import find_known
from service import strict
from service.spec import ImageSpec

MAX_TOKENS = 512
_NO_LABELS = "no labels are known; give --labels FILE with one label per line"
_SEED = 0  # of random weights
_RANDOM_FACTOR = 0.2
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # classifiers that only training uses


@dataclass(frozen=True, slots=True)
class Order:
    """What to load.

    Attributes:
        network: A name of the zoo or of torchvision, ``timm:NAME``, ``package.module:function``, or an ONNX file.
        weights: Name of torchvision's weights, a file, or None for random ones.
        renames: File with a name in the weights and its name here per line, or None.
        labels: File with one label per line, or None for those of the weights or the recipe.
        preprocessing: TOML file with a table ``[preprocessing]``, or a recipe's name, or None.
        size_px: Height and width instead of the preprocessing's, or None.
        tokenizer: File of the tokenizer of a network for sentences; None for pictures.
        max_tokens: The longest sentence that will be served, in tokens.
        tolerance: Largest difference of a probability between torch and the graph that is accepted.
    """

    network: str
    weights: str | None = None
    renames: Path | None = None
    labels: Path | None = None
    preprocessing: str | None = None
    size_px: int | None = None
    tokenizer: Path | None = None
    max_tokens: int = MAX_TOKENS
    tolerance: float = TOLERANCE


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network ready to be published.

    Attributes:
        network: In evaluation mode.
        name: Name for the manifest.
        preprocessing: What produces its input.
        labels: One per class.
        weights: Where the weights come from.
        digest: ``sha256:`` of the weights.
        notes: What was done or assumed, one line each.
    """

    network: Network
    name: str
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    weights: str
    digest: str
    notes: tuple[str, ...]


def load_network(order: Order) -> Loaded:
    """Build a network and load its weights.

    Raises:
        RecipeInvalid: The name is unknown, preprocessing or labels are missing, or the network cannot take
            such pictures or sentences.
        WeightsInvalid: The weights cannot be read or do not fit.
    """
    torch.manual_seed(_SEED)
    build = find_builder(order.network, sentences=order.tokenizer is not None)
    notes: list[str] = []
    state: dict[str, torch.Tensor] | None = None
    named = presets.named(order.network, order.weights) if order.weights else None
    if order.weights is not None and named is None:
        state, notes = read_state(Path(order.weights))
    preprocessing, labels = describe(order, _preset(order, named, notes), notes)
    if state is not None and order.tokenizer is not None and ":" not in order.network:
        known, state, done = as_textcnn(find_known(order.network), state, preprocessing)
        build, notes = known.build, notes + done
    network = build(preprocessing.sizes(len(labels)))
    target = network.inner if isinstance(network, Wrapped) else network
    if named is not None:
        state = presets.fetch(named)
    if state is None and ":" in order.network and not order.network.startswith(TIMM):
        notes.append(f"the weights are those with which {order.network} returned the network")
        _pass_through(network.eval(), preprocessing, 2)
        source = f"of {order.network}"
    elif state is None:
        notes.append("no weights were given, so they are random and the answers mean nothing")
        _settle(network, preprocessing)
        source = f"random, seed {_SEED}"
    else:
        renames = read_renames(order.renames) if order.renames else None
        ignored = _AUXILIARY if order.network in SCALES_TWICE else ()
        sorted_by_name = Path(order.weights or "").suffix == SUFFIX
        notes += fit_state(target, state, renames, ignored, in_order=not sorted_by_name)
        _pass_through(network.eval(), preprocessing, 1)
        source = Path(order.weights or "").name
    digest = _digest(target)
    network.compact()
    return Loaded(network.eval(), order.network, preprocessing, labels, source, digest, tuple(notes))


def _preset(order: Order, named: Any, notes: list[str]) -> Any:
    """Return torchvision's entry that describes the weights, or None if there is none or a preprocessing was given."""
    if order.preprocessing is not None:
        return None
    if named is not None:
        return named
    chosen = presets.of_file(order.network, Path(order.weights or "").name)
    if chosen is not None:
        notes.append(f"preprocessing and labels are those of torchvision's {chosen}; --preprocessing overrides them")
    return chosen


def describe(order: Order, preset: Any, notes: list[str]) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return preprocessing and labels: those given, torchvision's, or those of a recipe for such a network.

    Raises:
        RecipeInvalid: One of them is missing or cannot be read, or is for the other kind of network.
    """
    if order.tokenizer is None:
        spec, labels = _describe_pictures(order, preset, notes)
        return Preprocessing(spec, None), labels
    if order.preprocessing is not None or order.size_px is not None:
        raise RecipeInvalid(
            f"{order.network}: --preprocessing and --size are for pictures; --tokenizer alone says how sentences "
            "become ids"
        )
    if order.labels is None:
        raise RecipeInvalid(f"{order.network}: {_NO_LABELS}")
    preprocessing = read_tokenizer(order.tokenizer, order.max_tokens)
    assert preprocessing.tokenizer is not None
    if added := preprocessing.tokenizer.num_special_tokens_to_add(False):
        notes.append(f"the tokenizer would add {added} special tokens to a sentence, such as [CLS]; a server does not")
    return preprocessing, _read_labels(order.labels)


def _describe_pictures(order: Order, preset: Any, notes: list[str]) -> tuple[ImageSpec, tuple[str, ...]]:
    labels: tuple[str, ...] | None = None
    if order.preprocessing is not None and order.preprocessing.endswith(".toml"):
        spec = _read_preprocessing(Path(order.preprocessing))
    elif preset is not None:
        spec, labels = presets.spec_of(preset, order.network), tuple(preset.meta["categories"])
    else:
        spec, labels = _recipe_description(order, notes)
    if order.labels is not None:
        labels = _read_labels(order.labels)
    if not labels:
        raise RecipeInvalid(f"{order.network}: {_NO_LABELS}")
    if order.size_px is not None:
        resize_px = order.size_px if spec.resize == "exact" else round(spec.resize_px * order.size_px / spec.height)
        spec = dataclasses.replace(spec, height=order.size_px, width=order.size_px, resize_px=max(1, resize_px))
    return spec, labels


def _recipe_description(order: Order, notes: list[str]) -> tuple[ImageSpec, tuple[str, ...]]:
    if order.preprocessing is not None:
        name = order.preprocessing
    elif order.network == "lenet5":
        name = "lenet5-mnist"
    elif order.network.endswith("-cifar"):
        name = "resnet20-cifar10"
    else:
        raise RecipeInvalid(
            f"{order.network}: no preprocessing is known; give --preprocessing RECIPE|FILE.toml and --labels FILE"
        )
    recipe = find_recipe(name)
    if not isinstance(recipe.spec, ImageSpec):
        raise RecipeInvalid(f"{name}: is a recipe for sentences; {SENTENCES}")
    notes.append(
        f"preprocessing and labels are those of the recipe {name} "
        f"(mean {_listed(recipe.spec.mean)}, std {_listed(recipe.spec.std)}); --preprocessing overrides them"
    )
    return recipe.spec, recipe.data.labels


def _listed(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _read_preprocessing(path: Path) -> ImageSpec:
    """Read the table ``[preprocessing]`` of a TOML file, which may be a complete recipe."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))["preprocessing"]
        if isinstance(table, dict) and table.get("kind") == "text":
            raise RecipeInvalid(f"{path}: is for sentences; {SENTENCES}")
        return strict.parse(ImageSpec, table, "preprocessing")
    except KeyError:
        raise RecipeInvalid(f"{path}: has no table [preprocessing]") from None
    except (OSError, ValueError) as error:
        raise RecipeInvalid(f"{path}: {error}") from None


def _read_labels(path: Path) -> tuple[str, ...]:
    try:
        labels = tuple(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeInvalid(f"{path}: labels cannot be read ({error})") from None
    if len(labels) < 2:
        raise RecipeInvalid(f"{path}: has {len(labels)} labels, expected at least two, one per line")
    for row, label in enumerate(labels, start=1):  # duplicates are allowed: ImageNet's cranes are birds and machines
        if not label.strip():
            raise RecipeInvalid(f"{path}, line {row}: is empty, expected a label")
    return labels


def _settle(network: Network, preprocessing: Preprocessing) -> None:
    """Give batch norm the statistics of the inputs that verify the network, and factors smaller than one.

    Without statistics, activations of a network with random weights grow from layer to layer. The logits of
    a deep random network become so large that the rounding of any runtime shows in the probabilities.

    Raises:
        RecipeInvalid: The network cannot take such inputs.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the mean of all batches
        nn.init.constant_(norm.weight, _RANDOM_FACTOR)
    _pass_through(network.train(), preprocessing)


def _pass_through(network: Network, preprocessing: Preprocessing, count: int | None = None) -> None:
    """Run a network on inputs that will verify it: the first ones, or all of them for None.

    Raises:
        RecipeInvalid: The network cannot take such inputs.
    """
    spec, inputs = preprocessing.spec, proving_inputs(preprocessing)
    batches = [inputs.batch(np.arange(count or len(inputs)))]
    if isinstance(spec, ImageSpec):
        took = f"pictures of {spec.height} x {spec.width} in mode {spec.mode}"
        given = "float32 (N, C, H, W) on the CPU, of the size and mode that --size and --preprocessing say"
    else:
        words = preprocessing.sizes(0).vocabulary
        batches += [np.array([[words - 1]]), np.full((1, spec.max_tokens), words - 1)]
        took = f"ids of 1 to {spec.max_tokens} tokens"
        given = f"int64 (N, L) on the CPU, each from 0 to {words - 1}, the tokenizer's last"
    try:
        with torch.no_grad():
            for batch in batches:
                Classifier(network, spec)(torch.from_numpy(batch))
    except (Exception, SystemExit) as error:  # each layer raises its own class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeInvalid(f"the network cannot take {took} ({reason}); it is given {given}") from None


def _digest(module: nn.Module) -> str:
    """Return the digest of all weights, in the module's order."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):  # a module's extra state may be anything
            digest.update(value.detach().cpu().to_dense().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return "sha256:" + digest.hexdigest()

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
from export.architectures import Network, Sizes
from export.architectures.torchvision_nets import SCALES_TWICE, Wrapped
from export.builder import PICTURES_ONLY, TIMM, find_builder
from export.classifier import PictureFront
from export.data.inputs import proving_pictures
from export.errors import RecipeInvalid
from export.recipe import find_recipe
from export.verify import TOLERANCE
from export.weights import fit_state, read_renames, read_state
from service import strict
from service.spec import ImageSpec

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
        seed: Seed of random weights.
        tolerance: Largest difference of a probability between torch and the graph that is accepted.
    """

    network: str
    weights: str | None = None
    renames: Path | None = None
    labels: Path | None = None
    preprocessing: str | None = None
    size_px: int | None = None
    seed: int = 0
    tolerance: float = TOLERANCE


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network ready to be published.

    Attributes:
        network: In evaluation mode.
        name: Name for the manifest.
        spec: The preprocessing that produces its input.
        labels: One per class.
        weights: Where the weights come from.
        digest: ``sha256:`` of the weights.
        notes: What was done or assumed, one line each.
    """

    network: Network
    name: str
    spec: ImageSpec
    labels: tuple[str, ...]
    weights: str
    digest: str
    notes: tuple[str, ...]


def load_network(order: Order) -> Loaded:
    """Build a network and load its weights.

    Raises:
        RecipeInvalid: The name is unknown, preprocessing or labels are missing, or the network cannot take
            such pictures.
        WeightsInvalid: The weights cannot be read or do not fit.
    """
    torch.manual_seed(order.seed)
    build = find_builder(order.network)
    notes: list[str] = []
    state: dict[str, torch.Tensor] | None = None
    named = presets.named(order.network, order.weights) if order.weights else None
    if order.weights is not None and named is None:
        state, notes = read_state(Path(order.weights))
    spec, labels = describe(order, _preset(order, named, notes), notes)
    network = build(Sizes(len(labels), spec.height, spec.width, spec.channels))
    target = network.inner if isinstance(network, Wrapped) else network
    if named is not None:
        state = presets.fetch(named)
    if state is None and ":" in order.network and not order.network.startswith(TIMM):
        notes.append(f"the weights are those with which {order.network} returned the network")
        _pass_through(network.eval(), spec, proving_pictures(spec)[:2])
        source = f"of {order.network}"
    elif state is None:
        notes.append("no weights were given, so they are random and the answers mean nothing")
        _settle(network, spec)
        source = f"random, seed {order.seed}"
    else:
        renames = read_renames(order.renames) if order.renames else None
        ignored = _AUXILIARY if order.network in SCALES_TWICE else ()
        notes += fit_state(target, state, renames, ignored).notes
        _pass_through(network.eval(), spec, proving_pictures(spec)[:1])
        source = Path(order.weights or "").name
    return Loaded(network.eval(), order.network, spec, labels, source, _digest(target), tuple(notes))


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


def describe(order: Order, preset: Any, notes: list[str]) -> tuple[ImageSpec, tuple[str, ...]]:
    """Return preprocessing and labels: those given, torchvision's, or those of a recipe for such a network.

    Raises:
        RecipeInvalid: One of them is missing or cannot be read.
    """
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
        raise RecipeInvalid(f"{order.network}: no labels are known; give --labels FILE with one label per line")
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
        raise RecipeInvalid(f"{name}: is a recipe for sentences; {PICTURES_ONLY}")
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
            raise RecipeInvalid(f"{path}: is for sentences; {PICTURES_ONLY}")
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


def _settle(network: Network, spec: ImageSpec) -> None:
    """Give batch norm the statistics of the pictures that verify the network, and factors smaller than one.

    Without statistics, activations of a network with random weights grow from layer to layer. The logits of
    a deep random network become so large that the rounding of any runtime shows in the probabilities.

    Raises:
        RecipeInvalid: The network cannot take such pictures.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean of all batches
        nn.init.constant_(norm.weight, _RANDOM_FACTOR)
    _pass_through(network.train(), spec, proving_pictures(spec))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _pass_through(network: Network, spec: ImageSpec, pictures: np.ndarray) -> None:
    """Run a network on pictures.

    Raises:
        RecipeInvalid: The network cannot take such pictures.
    """
    try:
        with torch.no_grad():
            network(PictureFront(spec)(torch.from_numpy(pictures)))
    except (Exception, SystemExit) as error:  # each layer raises its own class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecipeInvalid(
            f"the network cannot take pictures of {spec.height} x {spec.width} in mode {spec.mode} ({reason}); it is "
            "given float32 (N, C, H, W) on the CPU, of the size and mode that --size and --preprocessing say"
        ) from None


def _digest(module: nn.Module) -> str:
    """Return the digest of all weights, in the module's order."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):  # a module's extra state may be anything
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return "sha256:" + digest.hexdigest()

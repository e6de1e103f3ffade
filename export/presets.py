"""Weights that torchvision publishes: found by name or by file, fetched, and what they want before them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchvision import models

from export.architectures.torchvision_nets import SCALES_TWICE
from export.errors import WeightsInvalid
from service.spec import ImageSpec

# What GoogLeNet and Inception were trained with: transform_input brings ImageNet's scaling back to it.
_HALVES = (0.5, 0.5, 0.5)


def named(network: str, weights: str) -> Any:
    """Return torchvision's entry of this name, or None where a file is meant.

    Raises:
        WeightsInvalid: It is neither a file nor a name that torchvision knows for this network.
    """
    entries = _entries(network)
    if entries is None or Path(weights).exists():
        return None
    if weights == "DEFAULT":
        return entries.DEFAULT
    usable = _usable(entries)
    chosen = next((each for each in usable if each.name == weights), None)
    if chosen is None:
        known = ", ".join(each.name for each in usable)
        raise WeightsInvalid(f"{weights}: no such file, and {network} has the weights {known}, DEFAULT")
    return chosen


def of_file(network: str, file: str) -> Any:
    """Return the entry that is published under this file's name, or else the first; None if there are none."""
    entries = _entries(network)
    if entries is None:
        return None
    usable = _usable(entries)
    return next((each for each in usable if each.url.rsplit("/", 1)[-1] == file), usable[0])


def fetch(preset: Any) -> dict[str, torch.Tensor]:
    """Return the weights, downloaded if they are not here yet.

    Raises:
        WeightsInvalid: They cannot be downloaded, or came damaged.
    """
    try:
        return dict(preset.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise WeightsInvalid(
            f"{preset}: {preset.url} cannot be fetched ({error}); give a file with --weights FILE"
        ) from None


def spec_of(preset: Any, network: str) -> ImageSpec:
    """Write torchvision's evaluation preset as ours.

    Its GoogLeNet and Inception scale their input once more, from ImageNet's mean and deviation to
    0.5 and 0.5; both scalings together are this second one alone.
    """
    transform = preset.transforms()
    twice = network in SCALES_TWICE
    return ImageSpec(
        kind="image",
        mode="RGB",
        height=transform.crop_size[0],
        width=transform.crop_size[0],
        resize="shorter-edge",
        resize_px=transform.resize_size[0],
        interpolation=transform.interpolation.value,
        mean=_HALVES if twice else tuple(transform.mean),
        std=_HALVES if twice else tuple(transform.std),
    )


def _entries(network: str) -> Any:
    try:
        return models.get_model_weights(network)
    except ValueError:
        return None


def _usable(entries: Any) -> list[Any]:
    return [each for each in entries if each.meta.get("categories")]

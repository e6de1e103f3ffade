"""Weights that torchvision publishes: finding them by name or file, downloading them, and their preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchvision import models

from export.architectures.torchvision_nets import SCALES_TWICE
from export.errors import WeightsInvalid
from service.spec import ImageSpec

# Mean and std that GoogLeNet and Inception were trained with; transform_input converts ImageNet's to them.
_HALVES = (0.5, 0.5, 0.5)


def named(network: str, weights: str) -> Any:
    """Return torchvision's entry of this name, or None if ``weights`` is a file.

    Raises:
        WeightsInvalid: It is neither a file nor a name that torchvision has for this network.
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
        raise WeightsInvalid(f"{weights}: no such file and no weights of {network}, which has {known} and DEFAULT")
    return chosen


def of_file(network: str, file: str) -> Any:
    """Return the entry whose published file has this name up to its suffix, else the first; None if there are none."""
    entries = _entries(network)
    if entries is None:
        return None
    usable = _usable(entries)
    return next((each for each in usable if Path(each.url).stem == Path(file).stem), usable[0])


def fetch(preset: Any) -> dict[str, torch.Tensor]:
    """Return the weights, downloaded if they are not in torch's cache.

    Raises:
        WeightsInvalid: They cannot be downloaded, or the download is damaged.
    """
    try:
        return dict(preset.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise WeightsInvalid(
            f"{preset}: {preset.url} cannot be downloaded ({error}); give a file with --weights FILE"
        ) from None


def spec_of(preset: Any, network: str) -> ImageSpec:
    """Translate torchvision's evaluation preset into an :class:`ImageSpec`.

    torchvision's GoogLeNet and Inception scale their input a second time, from ImageNet's mean and
    deviation to 0.5 and 0.5. The two scalings together equal the second one alone.
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

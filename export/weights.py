"""State dicts made elsewhere: read without running anything, named, shaped and fitted, or refused."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.errors import WeightsInvalid
from export.safetensors import SUFFIX, read_safetensors

# Under these keys checkpoints of the common training scripts hold the state dict.
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "ema",
    "state_dict_ema",
    "model_ema",
)
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_AVERAGED = "n_averaged"  # AveragedModel's count of updates
_COUNTER = "num_batches_tracked"  # of batch norm; older checkpoints lack it, and answers do not need it
_PARTS = ("weight", "bias", "running_mean", "running_var")  # of a layer, by torch's names; of batch norm all alike
_FLOATS = ("float16", "bfloat16", "float32", "float64")  # what becomes float32 by a cast
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was done to make a state dict fit, a line each; empty if it fitted as it was."""

    notes: tuple[str, ...]


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Read a state dict, out of a checkpoint if need be, without the prefixes of DataParallel and torch.compile.

    The file is one of torch.save, or of safetensors by its name. Only tensors and plain values are unpickled, so a file
    cannot run code.

    Returns:
        Tensors by name, and a line for each thing that was unwrapped.

    Raises:
        WeightsInvalid: The file is missing, damaged, or holds something else.
    """
    held = read_safetensors(path) if path.suffix == SUFFIX else _unpickled(path)
    notes = []
    for key in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            notes.append(f"the state dict is what '{key}' of the checkpoint holds")
            held = held[key]
            break
    if not isinstance(held, Mapping) or not any(isinstance(value, torch.Tensor) for value in held.values()):
        raise WeightsInvalid(
            f"{path}: holds no state dict; looked for tensors by name, also under {', '.join(_WRAPPERS)}"
        )
    state = {str(name): value for name, value in held.items() if isinstance(value, torch.Tensor)}
    state.pop(_AVERAGED, None)
    while state and (prefix := next((some for some in _PREFIXES if all(name.startswith(some) for name in state)), "")):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        notes.append(f"the prefix '{prefix}' was taken off every name")
    return state, notes


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsInvalid(f"{path}: no such file") from None
    except OSError as error:
        raise WeightsInvalid(f"{path}: {error.strerror or error}") from None
    except pickle.UnpicklingError:
        raise WeightsInvalid(
            f"{path}: holds more than tensors and plain values, perhaps a whole model or a trainer's settings; "
            "where it was made, save model.state_dict() alone"
        ) from None
    except Exception as error:  # an unpickler fails at what it does not know in many ways
        if "TorchScript" in str(error):
            raise WeightsInvalid(
                f"{path}: is a TorchScript archive; save torch.jit.load(FILE).state_dict() with torch.save"
            ) from None
        raise WeightsInvalid(f"{path}: is no file of torch.save ({type(error).__name__})") from None


def read_renames(path: Path) -> dict[str, str]:
    """Read a renaming: in each line a name in the file and the name here, apart by spaces.

    Raises:
        WeightsInvalid: The file is missing, or a line has not two names, or one that an earlier line has; names
            the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsInvalid(f"{path}: not readable ({error})") from None
    renames = {}
    for row, line in enumerate(lines, start=1):
        names = line.split()
        if names and not line.startswith("#"):
            if len(names) != 2:
                raise WeightsInvalid(f"{path}, line {row}: has {len(names)} names, expected theirs and ours")
            if names[0] in renames:
                raise WeightsInvalid(f"{path}, line {row}: '{names[0]}' has a name already")
            renames[names[0]] = names[1]
    return renames


def fit_state(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    renames: Mapping[str, str] | None = None,
    ignored: tuple[str, ...] = (),
) -> Fitted:
    """Load a state dict into a module by name; by order where no name fits but order and shapes all agree.

    Args:
        module: To load into.
        state: Tensors by the file's names.
        renames: From a name in the file to one of the module's.
        ignored: Beginnings of names that the file may have and the module has not.

    Raises:
        WeightsInvalid: Names are missing, unexpected or given twice, shapes or types differ, or values are NaN; lists
            them.
    """
    wanted = module.state_dict()
    notes: list[str] = []
    unknown = [name for name in renames or {} if name not in state]
    if unknown:
        raise WeightsInvalid(f"the renaming names what the file has not: {_some(unknown)}")
    named: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        ours = (renames or {}).get(name, name)
        if ours in named:
            raise WeightsInvalid(f"the renaming gives '{ours}' to two tensors of the file, one of them '{name}'")
        named[ours] = value
    if renames:
        notes.append(f"{len(renames)} names were changed as given")
    dropped = [name for name in named if name not in wanted and name.startswith(ignored)] if ignored else []
    if dropped:
        notes.append(f"left out, since only training needs them: {_some(dropped)}")
    named = {name: value for name, value in named.items() if name not in dropped}
    if not any(name in wanted for name in named):
        named = _by_order(named, wanted)
        notes.append(f"no name fits, but all {len(named)} shapes agree in order, so they were taken by order")
    _check(named, wanted)
    wanted.update(named)  # the counters that are missing, and the layers' versions, by which MNASNet reads it, are kept
    module.load_state_dict(wanted)
    return Fitted(tuple(notes))


def _by_order(named: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the file's tensors the module's names in order; refuse if a shape or a layer's part differs."""
    theirs = [(name, value) for name, value in named.items() if not name.endswith(_COUNTER)]
    ours = [(name, value) for name, value in wanted.items() if not name.endswith(_COUNTER)]
    if [tuple(value.shape) for _, value in theirs] != [tuple(value.shape) for _, value in ours]:
        pairs = zip(theirs, ours, strict=False)
        first = next((pair for pair in pairs if pair[0][1].shape != pair[1][1].shape), None)
        where = f"{len(theirs)} tensors for {len(ours)}"
        if first is not None:
            (their, came), (our, expected) = first
            where = f"first at '{their}' {tuple(came.shape)} for '{our}' {tuple(expected.shape)}"
        raise WeightsInvalid(
            f"no name fits ({_some(list(named))} for {_some(list(wanted))}), and by order the shapes differ, {where}; "
            "give a renaming"
        )
    for (their, _), (our, _) in zip(theirs, ours, strict=True):
        part, expected_part = their.rpartition(".")[2], our.rpartition(".")[2]
        if part != expected_part and part in _PARTS and expected_part in _PARTS:
            raise WeightsInvalid(f"no name fits, and by order '{their}' would be taken for '{our}'; give a renaming")
    return {our: value for (our, _), (_, value) in zip(ours, theirs, strict=True)}


def _check(named: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    missing = [name for name in wanted if name not in named and not name.endswith(_COUNTER)]
    unexpected = [name for name in named if name not in wanted]
    if missing or unexpected:
        parts = [f"missing: {_some(missing)}"] * bool(missing) + [f"unexpected: {_some(unexpected)}"] * bool(unexpected)
        remedy = "; --renames FILE tells which is which" if missing and unexpected else ""
        raise WeightsInvalid(f"the weights do not fit; {'; '.join(parts)}{remedy}")
    wrong = {name: value for name, value in named.items() if value.shape != wanted[name].shape}
    if wrong:
        shown = [f"'{name}' is {tuple(v.shape)}, expected {tuple(wanted[name].shape)}" for name, v in wrong.items()]
        raise WeightsInvalid(f"the weights do not fit; {_some(shown)}{_other_classes(wrong, wanted)}")
    odd = [
        f"'{name}' is {_kind(value)}"
        for name, value in named.items()
        if wanted[name].is_floating_point() and _kind(value) not in _FLOATS
    ]
    if odd:
        raise WeightsInvalid(f"the weights do not fit; {_some(odd)}; save plain float32")
    broken = [name for name, value in named.items() if value.is_floating_point() and bool(value.isnan().any())]
    if broken:
        raise WeightsInvalid(f"weights are not numbers (NaN), perhaps since training diverged: {_some(broken)}")


def _other_classes(wrong: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """Return the remedy where nothing but the number of classes is another, else nothing."""
    counts = {value.shape[:1] for value in wrong.values()}
    alike = all(value.ndim and value.shape[1:] == wanted[name].shape[1:] for name, value in wrong.items())
    if len(counts) != 1 or not alike or len({wanted[name].shape[:1] for name in wrong}) != 1:
        return ""
    return f"; for a network of {counts.pop()[0]} classes give --labels FILE with as many lines"


def _kind(value: torch.Tensor) -> str:
    """Name what a tensor is, as somebody who is to save it otherwise needs to know."""
    if value.is_meta:
        return "without values"
    return str(value.dtype).removeprefix("torch.") if value.layout == torch.strided else "sparse"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

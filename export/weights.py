"""Reads state dicts made elsewhere, without running code from them, and fits them to a network or refuses them."""

from __future__ import annotations

import errno
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from export.checksums import is_intact
from export.errors import WeightsInvalid
from export.safetensors import SUFFIX, read_safetensors

# Keys under which checkpoints of common training scripts hold the state dict.
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
_PREFIXES = ("module.", "_orig_mod.")  # added by DataParallel and torch.compile
_AVERAGED = "n_averaged"  # AveragedModel's count of updates
_COUNTER = "num_batches_tracked"  # of batch norm; older checkpoints lack it, and it does not affect answers
_COUNTED = ("total_ops", "total_params")  # by thop, which leaves them in every layer
_PARTS = ("weight", "bias", "running_mean", "running_var")  # torch's names; in batch norm all have the same shape
_FLOATS = ("float16", "bfloat16", "float32", "float64")  # types that are cast to float32
_SHOWN = 8
_ANOTHER = "; name the network that they come from"


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Read a state dict, if necessary out of a checkpoint, and remove the prefixes of DataParallel and torch.compile.

    A file named ``*.safetensors`` is read as such, any other as one of torch.save. Only tensors and plain values are
    unpickled, so a file cannot run code.

    Returns:
        Tensors by name, and a line for each change.

    Raises:
        WeightsInvalid: The file is missing, damaged, or holds something else.
    """
    held = read_safetensors(path) if path.suffix == SUFFIX else _unpickled(path)
    notes = []
    for key in _WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            others = [other for other in _WRAPPERS if other != key and isinstance(held.get(other), Mapping)]
            besides = f", which also has {_some(others)}" * bool(others)
            notes.append(f"the state dict was found under '{key}' of the checkpoint{besides}")
            held = held[key]
    named = held if isinstance(held, Mapping) else {}
    state = {str(name): value for name, value in named.items() if isinstance(value, torch.Tensor)}
    state.pop(_AVERAGED, None)
    if not state:
        raise WeightsInvalid(
            f"{path}: holds no state dict; expected tensors by name, at the top or under {', '.join(_WRAPPERS)}; "
            "save model.state_dict() alone"
        )
    while prefix := next((some for some in _PREFIXES if all(name.startswith(some) for name in state)), ""):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        notes.append(f"the prefix '{prefix}' was removed from every name")
    return state, notes


def _unpickled(path: Path) -> Any:
    try:
        if not is_intact(path):
            raise WeightsInvalid(f"{path}: is damaged, its checksum does not match; save or download it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of a TorchScript archive before it refuses it
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsInvalid:
        raise
    except FileNotFoundError:
        raise WeightsInvalid(f"{path}: no such file") from None
    except Exception as error:  # an unpickler may raise anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which a file that is cut short gives
            raise WeightsInvalid(f"{path}: {error.strerror or error}") from None
        if isinstance(error, pickle.UnpicklingError) and "Unsupported operand" not in str(error):  # which is no pickle
            raise WeightsInvalid(
                f"{path}: holds more than tensors and plain values, perhaps a whole model or training settings; "
                "save only model.state_dict() where it was made"
            ) from None
        if "TorchScript" in str(error):
            raise WeightsInvalid(
                f"{path}: is a TorchScript archive; save torch.jit.load(FILE).state_dict() with torch.save"
            ) from None
        raise WeightsInvalid(
            f"{path}: is not a file that torch.save wrote ({type(error).__name__}); save or download it again"
        ) from None


def read_renames(path: Path) -> dict[str, str]:
    """Read a file of renames. Each line has a name in the weights and the network's name, separated by spaces.

    Raises:
        WeightsInvalid: The file cannot be read, or a line does not have two names or repeats the first name of an
            earlier line; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsInvalid(f"{path}: cannot be read ({error})") from None
    renames = {}
    for row, line in enumerate(lines, start=1):
        names = line.split()
        if names and not line.startswith("#"):
            if len(names) != 2:
                raise WeightsInvalid(
                    f"{path}, line {row}: has {len(names)} names, expected a name in the weights and the network's name"
                )
            if names[0] in renames:
                raise WeightsInvalid(f"{path}, line {row}: '{names[0]}' is renamed twice")
            renames[names[0]] = names[1]
    return renames


def fit_state(
    module: nn.Module,
    state: Mapping[str, torch.Tensor],
    renames: Mapping[str, str] | None = None,
    ignored: tuple[str, ...] = (),
    *,
    in_order: bool = True,
) -> list[str]:
    """Load a state dict into a module by name, beneath a prefix if necessary, or by order if all shapes agree in order.

    Args:
        module: The module to load into.
        state: Tensors by the file's names.
        renames: The module's name by name in the file.
        ignored: Prefixes of names that the file may have although the module does not.
        in_order: Whether the file has its tensors in the order of the layers, so that they may be loaded by it.

    Returns:
        What was done to make it fit, one line each; empty if it fitted unchanged.

    Raises:
        WeightsInvalid: Names are missing, unexpected or given twice, shapes or types differ, or values are NaN, and the
            message lists them; or the module itself refuses them.
    """
    whole = module.state_dict()
    wanted = {name: value for name, value in whole.items() if isinstance(value, torch.Tensor)}  # no extra state
    notes: list[str] = []
    unknown = [name for name in renames or {} if name not in state]
    if unknown:
        raise WeightsInvalid(f"--renames has names that the weights do not have: {_some(unknown)}")
    named: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        ours = (renames or {}).get(name, name)
        if ours in named:
            raise WeightsInvalid(
                f"--renames gives the name '{ours}' to two tensors of the weights, one of them '{name}'"
            )
        named[ours] = value
    if renames:
        notes.append(f"{len(renames)} names were changed by --renames")
    if not any(name in wanted for name in named) and (prefix := _prefix(named, wanted)):
        others = [name for name in named if not name.startswith(prefix)]
        rest = f"; what lies outside it was left out: {_some(others)}" if others else ""
        notes.append(f"the names fit without the prefix '{prefix}'{rest}")
        named = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
    unneeded = [name for name in named if name.startswith(ignored) or name.rpartition(".")[2] in _COUNTED]
    dropped = [name for name in unneeded if name not in wanted]
    if dropped:
        notes.append(f"ignored, because only training needs them: {_some(dropped)}")
    named = {name: value for name, value in named.items() if name not in dropped}
    if not any(name in wanted for name in named):
        if not in_order:
            raise WeightsInvalid(
                f"no name fits ({_some(list(named))} for {_some(list(wanted))}), and this file's order is not that of "
                f"the layers, as safetensors sorts by name{_ANOTHER}, or give --renames FILE"
            )
        named = _by_order(named, wanted)
        notes.append(f"no name fits, but all {len(named)} shapes agree in order, so tensors were assigned by order")
    _check(named, wanted)
    whole.update(named)  # keeps missing counters, and the layers' versions, which MNASNet needs to read it
    try:
        module.load_state_dict(whole)
    except Exception as error:  # the user's code may raise anything
        reason = " ".join(str(error).split())
        raise WeightsInvalid(f"the network does not take the weights ({type(error).__name__}: {reason})") from None
    return notes


def _prefix(named: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """Return the prefix beneath which the file has all names, such as a trainer's ``model.``; empty if there is none.

    Raises:
        WeightsInvalid: There are several, as in a checkpoint that also has averaged weights.
    """
    needed = [name for name in wanted if not name.endswith(_COUNTER)]
    ends = [name.removesuffix(needed[0]) for name in named if needed and name.endswith(f".{needed[0]}")]
    fitting = [end for end in ends if all(end + name in named for name in needed)]
    if len(fitting) > 1:
        raise WeightsInvalid(
            f"the weights fit beneath each of the prefixes {', '.join(map(repr, fitting))}; save what one of them has"
        )
    return fitting[0] if fitting else ""


def _by_order(named: dict[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the file's tensors the module's names in order. Refuse if a shape or the kind of a tensor differs."""
    theirs = [(name, value) for name, value in named.items() if not name.endswith(_COUNTER)]
    ours = [(name, value) for name, value in wanted.items() if not name.endswith(_COUNTER)]
    if [tuple(value.shape) for _, value in theirs] != [tuple(value.shape) for _, value in ours]:
        differing = [pair for pair in zip(theirs, ours, strict=False) if pair[0][1].shape != pair[1][1].shape]
        where, remedy = f"{len(theirs)} tensors for {len(ours)}", ""
        if differing:
            (their, came), (our, expected) = differing[0]
            where = f"first at '{their}' {tuple(came.shape)} for '{our}' {tuple(expected.shape)}"
        if len(theirs) == len(ours):
            remedy = _other_classes({our: came for (_, came), (our, _) in differing}, wanted)
        raise WeightsInvalid(
            f"no name fits ({_some(list(named))} for {_some(list(wanted))}), and by order the shapes differ, {where}"
            f"{remedy or f'{_ANOTHER}, or give --renames FILE'}"
        )
    for (their, _), (our, _) in zip(theirs, ours, strict=True):
        part, expected_part = their.rpartition(".")[2], our.rpartition(".")[2]
        if part != expected_part and part in _PARTS and expected_part in _PARTS:
            raise WeightsInvalid(f"no name fits, and by order '{their}' would become '{our}'; give --renames FILE")
    return {our: value for (our, _), (_, value) in zip(ours, theirs, strict=True)}


def _check(named: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    missing = [name for name in wanted if name not in named and not name.endswith(_COUNTER)]
    unexpected = [name for name in named if name not in wanted]
    if missing or unexpected:
        parts = [f"missing: {_some(missing)}"] * bool(missing) + [f"unexpected: {_some(unexpected)}"] * bool(unexpected)
        remedy = ""
        if unexpected:
            remedy = ", or give --renames FILE" if missing else ", or save the state dict without what nothing needs"
        raise WeightsInvalid(f"the weights do not fit; {'; '.join(parts)}{_ANOTHER}{remedy}")
    wrong = {name: value for name, value in named.items() if value.shape != wanted[name].shape}
    if wrong:
        shown = [f"'{name}' is {tuple(v.shape)}, expected {tuple(wanted[name].shape)}" for name, v in wrong.items()]
        raise WeightsInvalid(f"the weights do not fit; {_some(shown)}{_other_classes(wrong, wanted) or _ANOTHER}")
    odd = [
        f"'{name}' is {_kind(value)}"
        for name, value in named.items()
        if wanted[name].is_floating_point() and _kind(value) not in _FLOATS
    ]
    if odd:
        raise WeightsInvalid(f"the weights do not fit; {_some(odd)}; save them as dense float32")
    broken = [name for name, value in named.items() if value.is_floating_point() and bool(value.isnan().any())]
    if broken:
        raise WeightsInvalid(f"weights are NaN, perhaps because training diverged: {_some(broken)}")


def _other_classes(wrong: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """Return the remedy if only the number of classes differs, else an empty string."""
    counts = {value.shape[:1] for value in wrong.values()}
    alike = all(value.ndim and value.shape[1:] == wanted[name].shape[1:] for name, value in wrong.items())
    if len(counts) != 1 or not alike or len({wanted[name].shape[:1] for name in wrong}) != 1:
        return ""
    (count,) = counts.pop()
    if count == 1:
        return "; the weights give one number, so bring the network with --from and let it return two logits, 0 and x"
    return f"; the weights have {count} classes, so give --labels FILE with as many lines"


def _kind(value: torch.Tensor) -> str:
    """Return what keeps a tensor from being loaded: its type, that it is sparse, or that it has no values."""
    if value.is_meta:
        return "without values"
    return str(value.dtype).removeprefix("torch.") if value.layout == torch.strided else "sparse"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

"""What builds a network that was trained elsewhere: the zoo, timm, or a function of the user's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from export.architectures import Network, Sizes
from export.architectures.torchvision_nets import Wrapped
from export.errors import RecipeInvalid
from export.zoo import find_known

SENTENCES = "give --tokenizer FILE and --labels FILE to load a network for sentences"
TIMM = "timm:"


def find_builder(network: str, *, sentences: bool) -> Callable[[Sizes], Network]:
    """Return the function that builds a network. It is found first, so an unknown name is refused at once.

    Args:
        network: As in :class:`export.load.Order`.
        sentences: Whether it is to take sentences, not pictures.

    Raises:
        RecipeInvalid: The name is unknown, or the network takes the other kind of inputs.
    """
    if ":" not in network:
        known = find_known(network)
        if known.sizes.vocabulary and not sentences:
            raise RecipeInvalid(f"{network}: is a network for sentences; {SENTENCES}")
        if sentences and not known.sizes.vocabulary:
            raise RecipeInvalid(f"{network}: is a network for pictures; leave --tokenizer out")
        return known.build
    if network.startswith(TIMM):
        if sentences:
            raise RecipeInvalid(f"{network}: is a network for pictures; leave --tokenizer out")
        return _timm(network.removeprefix(TIMM))
    return _function(network)


def _timm(name: str) -> Callable[[Sizes], Network]:
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError:
        raise RecipeInvalid(f"timm:{name}: the package timm is not installed; pip install timm") from None
    if not timm.is_model(name):
        raise RecipeInvalid(f"timm:{name}: timm has no such model")
    return lambda sizes: Wrapped(timm.create_model(name, pretrained=False, num_classes=sizes.classes))


def _function(source: str) -> Callable[[Sizes], Network]:
    """Import ``package.module:function`` or ``:module``, also from the current folder, and return what makes it."""
    module_name, _, name = source.partition(":")
    sys.path.insert(0, "")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise RecipeInvalid(f"{source}: cannot be imported ({type(error).__name__}: {error})") from None
    finally:
        sys.path.remove("")
    return lambda _: Wrapped(_called(source, function))


def _called(source: str, function: Callable[[], object]) -> nn.Module:
    sys.path.insert(0, "")
    try:
        made = function if isinstance(function, nn.Module) else function()
    except (Exception, SystemExit) as error:  # likewise
        raise RecipeInvalid(f"{source}: cannot be called ({type(error).__name__}: {error})") from None
    finally:
        sys.path.remove("")
    if not isinstance(made, nn.Module) or isinstance(made, torch.jit.ScriptModule):
        raise RecipeInvalid(f"{source}: returned {type(made).__name__}, expected a torch.nn.Module, not TorchScript")
    if any(map(is_lazy, (*made.parameters(), *made.buffers()))):
        raise RecipeInvalid(f"{source}: returned lazy layers without sizes; run the network once before returning it")
    return getattr(made, "_orig_mod", made)  # of torch.compile, whose graph is not what is converted

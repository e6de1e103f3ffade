"""``convserve-export load`` and ``list``: networks by name."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.cli_numbers import positive, tolerance
from export.errors import PublishFailed, RecipeInvalid, VerificationFailed, WeightsInvalid
from export.foreign import publish_foreign
from export.load import MAX_TOKENS, Order
from export.publish_loaded import publish_loaded
from export.recipe import bundled_recipes, find_recipe
from export.verify import TOLERANCE
from export.zoo import ZOO, find_known

_ANY_WIDTH = 1000


def add_list(parser: argparse.ArgumentParser) -> None:
    """Declare ``list``."""
    parser.set_defaults(command=_list)
    parser.add_argument("name", nargs="?", metavar="ARCHITECTURE", help="list the layers of this architecture")


def add_load(parser: argparse.ArgumentParser) -> None:
    """Declare ``load``."""
    parser.set_defaults(command=_load)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "network",
        nargs="?",
        metavar="ARCHITECTURE",
        help="a name from list, any torchvision classifier, timm:NAME, or a .onnx file",
    )
    what.add_argument("--from", dest="source", metavar="MODULE:FUNCTION", help="function that returns an nn.Module")
    parser.add_argument(
        "--weights", metavar="NAME|FILE", help="name of torchvision weights, or a file with a state dict"
    )
    parser.add_argument(
        "--renames", type=Path, metavar="FILE", help="per line, a name in the weights and its name here"
    )
    parser.add_argument("--labels", type=Path, metavar="FILE", help="one label per line, in class order")
    parser.add_argument(
        "--preprocessing", metavar="RECIPE|FILE.toml", help="recipe or file with a table [preprocessing]"
    )
    parser.add_argument("--size", type=positive, metavar="PX", help="height and width (default: the preprocessing's)")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json of a network for sentences")
    parser.add_argument(
        "--max-tokens",
        type=positive,
        metavar="N",
        help=f"longest sentence to serve, in tokens (default: {MAX_TOKENS}; with --tokenizer)",
    )
    parser.add_argument("--logits", action="store_true", help="the .onnx file returns logits, so add softmax")
    parser.add_argument("--models", type=Path, required=True, metavar="DIR", help="model repository")
    parser.add_argument("--name", metavar="MODEL", help="name of the model (default: the architecture's)")
    parser.add_argument("--version", type=positive, metavar="N", help="version number (default: the next free one)")
    parser.add_argument(
        "--max-batch-size", type=positive, default=32, metavar="N", help="largest batch to verify (default: 32)"
    )
    parser.add_argument(
        "--tolerance",
        type=tolerance,
        default=TOLERANCE,
        metavar="P",
        help=f"largest difference of a probability that is accepted (default: {TOLERANCE:g}, at most 0.02)",
    )


def _list(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.name is not None:
        return _list_layers(arguments.name, console)
    console.print("[bold]recipes[/bold]")
    for name in bundled_recipes():
        console.print(f"  {name:24} {escape(find_recipe(name).summary)}")
    console.print("[bold]architectures[/bold]  (list ARCHITECTURE shows the layers)")
    table = Table(box=None, pad_edge=False)
    for title in ("name", "paper", "input"):
        table.add_column(title, no_wrap=True)
    for title in ("parameters", "MACs (M)", "layers"):
        table.add_column(title, justify="right", no_wrap=True)
    for known in ZOO.values():
        layers = known.layers()
        sizes = known.sizes
        inputs = f"{sizes.channels}x{sizes.height}x{sizes.width}" if sizes.height else "20 tokens"
        parameters = sum(layer.parameters for layer in layers)
        work = sum(layer.multiply_adds for layer in layers)
        weighty = sum(layer.multiply_adds > 0 for layer in layers)
        table.add_row(known.name, known.paper, inputs, f"{parameters:,}", f"{work / 1e6:,.1f}", str(weighty))
    _print_whole(table, console)
    console.print("load also takes torchvision's other classifiers, timm:NAME, --from MODULE:FUNCTION and .onnx files")
    return 0


def _print_whole(table: Table, console: Console) -> None:
    """Print without cutting anything off, even on a narrow terminal or into a pipe."""
    Console(file=console.file, width=_ANY_WIDTH).print(table, highlight=False)


def _list_layers(name: str, console: Console) -> int:
    table = Table("layer", "kind", "output", box=None, pad_edge=False)
    for title in ("parameters", "multiply-adds"):
        table.add_column(title, justify="right")
    layers = find_known(name).layers()
    for layer in layers:
        shape = " x ".join(map(str, layer.output))
        table.add_row(layer.name, layer.kind, shape, f"{layer.parameters:,}", f"{layer.multiply_adds:,}")
    totals = (sum(layer.parameters for layer in layers), sum(layer.multiply_adds for layer in layers))
    table.add_row("total", "", "", *(f"{total:,}" for total in totals))
    _print_whole(table, console)
    return 0


def _load(arguments: argparse.Namespace, console: Console) -> int:
    def say(line: str) -> None:
        console.print(line, markup=False)

    if ":" not in (arguments.source or ":"):
        raise RecipeInvalid(f"--from: expected MODULE:FUNCTION, got '{arguments.source}'")
    network = arguments.source or arguments.network
    order = Order(
        network,
        arguments.weights,
        arguments.renames,
        arguments.labels,
        arguments.preprocessing,
        arguments.size,
        arguments.tokenizer,
        arguments.max_tokens or MAX_TOKENS,
        tolerance=arguments.tolerance,
    )
    if arguments.renames is not None and arguments.weights is None:
        raise WeightsInvalid("--renames changes names in the weights; give --weights FILE too")
    if arguments.max_tokens is not None and arguments.tokenizer is None:
        raise RecipeInvalid("--max-tokens limits sentences; give --tokenizer FILE too")
    if arguments.logits and not network.endswith(".onnx"):
        raise RecipeInvalid(f"{network}: --logits is for ONNX files; other networks always return logits")
    name = arguments.name or (Path(network).stem if network.endswith(".onnx") else network.rpartition(":")[2])
    if "/" in name or not name.strip("."):
        raise PublishFailed(f"{name!r} cannot be the name of a folder; give --name MODEL")
    target = arguments.models / name
    try:
        if network.endswith(".onnx"):
            publish_foreign(order, arguments.logits, target, arguments.version, arguments.max_batch_size, say)
        else:
            publish_loaded(order, target, arguments.version, arguments.max_batch_size, say)
    except VerificationFailed as error:
        why = "if the network itself rounds so much, as int8 or deep ones in float32 do, give a greater --tolerance"
        if order.tokenizer is not None and not network.endswith(".onnx"):
            why += "; its forward must not branch on the length of a sentence, because torch converts one branch"
        raise VerificationFailed(f"{error}; {why}") from None
    return 0

"""``convserve-export``: from data to a published version, one command per step."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from export.cli_load import add_list, add_load
from export.cli_numbers import limit, natural, naturals, positive
from export.data import Source, open_data
from export.data.base import DataSet, Split, fold_of
from export.data.inputs import Preprocessing
from export.errors import DataInvalid, ExportError
from export.evaluate import evaluate_graph
from export.progress import Bar
from export.publish import publish_run
from export.publish_quantized import Wish, quantize_version
from export.quantize import METHODS
from export.reading import recipe_of
from export.recipe import Recipe, find_recipe
from export.report import write_report
from export.run import with_epochs
from export.runner import Plan, load_classifier, open_divided, run_all
from export.seal import seal_version
from export.verify import verify_run, verify_version
from service.backend.onnx import OnnxBackend
from service.digests import check_digests
from service.ending import printing
from service.errors import BackendFailed, LoadError
from service.manifest import MODEL_FILE, Manifest, read_manifest

FAILED = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if the output cannot be written; 2 after an error, which is printed in one line; 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    # Else rich takes parts of MODULE:FUNCTION or a path for IPv6 addresses and emoji, such as ":two:".
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    complaints = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
    torch.set_num_threads(arguments.threads)
    try:
        command: Callable[[argparse.Namespace, Console], int] = arguments.command
        return printing("convserve-export", lambda: command(arguments, console))
    except (ExportError, LoadError, OSError) as error:
        complaints.print(f"convserve-export: {error}", markup=False)
        return FAILED
    except BackendFailed as error:
        reason = " ".join(str(error.__cause__).split())
        complaints.print(f"convserve-export: {error} ({reason})", markup=False)
        return FAILED
    except KeyboardInterrupt:
        complaints.print("convserve-export: interrupted before anything new was complete", markup=False)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convserve-export", allow_abbrev=False, description="Train, convert, prove and publish CNNs."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_list(commands.add_parser("list", help="list recipes and architectures, or the layers of one architecture"))
    add_load(commands.add_parser("load", help="publish a network that was trained elsewhere"))
    _add_train(commands.add_parser("train", help="train a recipe into a run folder"))
    publish = commands.add_parser("publish", help="convert, verify and evaluate a run, and publish it as a version")
    publish.set_defaults(command=_publish)
    publish.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder that train --out wrote")
    publish.add_argument("--models", type=Path, required=True, metavar="DIR", help="model repository")
    publish.add_argument("--version", type=positive, metavar="N", help="version number (default: the next free one)")
    publish.add_argument("--data", type=Path, metavar="DIR", help="data set of the run, if it has moved")
    verify = commands.add_parser("verify", help="check a version against its manifest and golden answers")
    verify.set_defaults(command=_verify)
    verify.add_argument("version_dir", type=Path, metavar="VERSION_DIR")
    verify.add_argument("--run", type=Path, metavar="RUN_DIR", help="also compare with the torch model of this run")
    verify.add_argument("--data", type=Path, metavar="DIR", help="data set of the run, if it has moved")
    seal = commands.add_parser("seal", help="verify published versions and add the digests of all their files")
    seal.set_defaults(command=_seal)
    seal.add_argument("version_dirs", type=Path, nargs="+", metavar="VERSION_DIR")
    evaluate = commands.add_parser("evaluate", help="measure a version's accuracy with the server's own preprocessing")
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("version_dir", type=Path, metavar="VERSION_DIR")
    evaluate.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set, laid out as for train")
    evaluate.add_argument("--recipe", metavar="RECIPE", help="how to read the data (default: the version's recipe)")
    evaluate.add_argument("--all", action="store_true", help="use every example, not only the test split")
    _add_quantize(commands.add_parser("quantize", help="make a version smaller or faster, and measure what it costs"))
    report = commands.add_parser("report", help="draw a run's learning curves, confusion matrix and worst mistakes")
    report.set_defaults(command=_report)
    report.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="folder that train --out wrote")
    report.add_argument("--data", type=Path, metavar="DIR", help="data set of the run, if it has moved")
    for command in commands.choices.values():
        command.add_argument("--threads", type=positive, default=2, metavar="N", help="CPU threads (default: 2)")
        command.allow_abbrev = False
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    train.set_defaults(command=_train)
    train.add_argument("recipe", metavar="RECIPE", help="name of a bundled recipe, or a .toml file")
    train.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder or file of the data set")
    train.add_argument("--download", action="store_true", help="download the data set into DIR (MNIST only)")
    train.add_argument("--out", type=Path, metavar="RUN_DIR", help="run folder (default: runs/RECIPE)")
    seeds = train.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=natural, default=0, metavar="N", help="seed of all random choices (default: 0)")
    seeds.add_argument("--seeds", type=naturals, metavar="N,N", help="train once per seed; report mean and spread")
    train.add_argument(
        "--folds", metavar="K,K|all", help="folds to test on, for data without a test split (default: 0)"
    )
    train.add_argument("--epochs", type=positive, metavar="N", help="maximum number of epochs (default: the recipe's)")
    train.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    train.add_argument(
        "--vectors", metavar="FILE|own", help="initial word vectors, for TextCNN variants that need them"
    )
    train.add_argument("--resume", action="store_true", help="continue the run in RUN_DIR")


def _add_quantize(quantize: argparse.ArgumentParser) -> None:
    quantize.set_defaults(command=_quantize)
    quantize.add_argument("version_dir", type=Path, metavar="VERSION_DIR")
    quantize.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set, laid out as for train")
    quantize.add_argument("--method", choices=METHODS, default=METHODS[0], help=f"default: {METHODS[0]}")
    quantize.add_argument(
        "--limit",
        type=limit,
        default=0.3,
        metavar="POINTS",
        help="largest accepted loss of top-1 accuracy, in percentage points (default: 0.3)",
    )
    quantize.add_argument("--force", action="store_true", help="publish even if the loss exceeds the limit")
    quantize.add_argument(
        "--to", type=Path, metavar="DIR", help="folder of the new model (default: MODEL-METHOD beside MODEL)"
    )
    quantize.add_argument("--recipe", metavar="RECIPE", help="how to read the data (default: the version's recipe)")


def _train(arguments: argparse.Namespace, console: Console) -> int:
    recipe = with_epochs(find_recipe(arguments.recipe), arguments.epochs)
    out = arguments.out or Path("runs") / recipe.name
    plan = Plan(
        recipe, Source(arguments.data, arguments.download), out, arguments.device, arguments.resume, arguments.vectors
    )
    seeds = arguments.seeds or [arguments.seed]
    records = run_all(plan, seeds, _folds(arguments.folds, recipe), partial(Bar, console), _say(console))
    if records[-1].state == "interrupted":
        _say(console)(f"interrupted: epoch {records[-1].best_epoch} is kept in {out}; --resume continues the run")
        return INTERRUPTED
    return 0


def _publish(arguments: argparse.Namespace, console: Console) -> int:
    publish_run(arguments.run_dir, arguments.models, arguments.version, arguments.data, _say(console))
    return 0


def _seal(arguments: argparse.Namespace, console: Console) -> int:
    for folder in arguments.version_dirs:
        _check_version_dir(folder)
        seal_version(folder, _say(console))
    return 0


def _quantize(arguments: argparse.Namespace, console: Console) -> int:
    wish = Wish(arguments.method, arguments.limit, arguments.force, arguments.recipe)
    quantize_version(arguments.version_dir, arguments.data, arguments.to, wish, _say(console))
    return 0


def _report(arguments: argparse.Namespace, console: Console) -> int:
    _say(console)(f"report: {write_report(arguments.run_dir, arguments.data)}")
    return 0


def _check_version_dir(folder: Path) -> None:
    """Refuse the folder of a model, where the folder of a version is expected.

    Raises:
        DataInvalid: It is the folder of a model; the message names one of its versions.
    """
    versions = sorted(int(path.parent.name) for path in folder.glob(f"*/{MODEL_FILE}") if path.parent.name.isdecimal())
    if versions and not (folder / MODEL_FILE).exists():
        raise DataInvalid(
            f"{folder}: is the folder of a model; give the folder of a version, such as {folder / str(versions[-1])}"
        )


def _verify(arguments: argparse.Namespace, console: Console) -> int:
    say = _say(console)
    _check_version_dir(arguments.version_dir)
    manifest, worst = verify_version(arguments.version_dir)
    sizes = ", ".join(map(str, manifest.parity.batch_sizes))
    say(f"verified: golden answers within {worst:.2g} at batch sizes {sizes}")
    if arguments.run is not None:
        recipe, record, preprocessing, classifier = load_classifier(arguments.run)
        source = Source(arguments.data or Path(record.data_path))
        data, _ = open_divided(recipe, source, record.seed, record.fold)
        assert data.test is not None
        parity = verify_run(arguments.version_dir, recipe, preprocessing, classifier, preprocessing.inputs(data.test))
        say(f"verified: at most {parity.max_abs_difference:.2g} from torch; same top-1 on all {parity.count}")
    return 0


def _evaluate(arguments: argparse.Namespace, console: Console) -> int:
    say, folder = _say(console), arguments.version_dir
    _check_version_dir(folder)
    manifest = read_manifest(folder)
    check_digests(manifest, folder)  # otherwise the figure would be another file's
    if manifest.preprocessing is None or manifest.labels_file is None:
        raise DataInvalid(f"{folder}: cannot be evaluated; expected a classifier of pictures or sentences")
    recipe = recipe_of(folder, manifest, arguments.recipe)
    backend = OnnxBackend(folder / MODEL_FILE, "cpu", arguments.threads)
    preprocessing = Preprocessing.from_dir(manifest.preprocessing, folder)
    for name, split in _splits_to_evaluate(arguments, recipe, manifest):
        say(f"{name}: {evaluate_graph(backend, preprocessing, split)}")
    for known in manifest.accuracy:
        say(f"manifest: top-1 {known.value:.2%} of {known.count} ({known.dataset}, {known.split})")
    return 0


def _splits_to_evaluate(arguments: argparse.Namespace, recipe: Recipe, manifest: Manifest) -> list[tuple[str, Split]]:
    """Return the split that the manifest names, or every split with ``--all``; each with its name."""
    source = Source(arguments.data)
    if not arguments.all:
        fold = fold_of(manifest.accuracy[0].split, recipe.data.folds) if manifest.accuracy else None
        data, _ = open_divided(recipe, source, manifest.provenance.seed or 0, fold)
        assert data.test is not None
        return [(f"{data.name}, {data.test_name}", data.test)]
    whole: DataSet = open_data(recipe, source)
    if whole.test is None:
        return [(f"{whole.name}, all", whole.train)]
    return [(f"{whole.name}, {name}", split) for name, split in (("train", whole.train), ("test", whole.test)) if split]


def _folds(text: str | None, recipe: Recipe) -> list[int | None]:
    """Read ``--folds``."""
    if text is None:
        return [None]
    if text == "all":
        if recipe.data.folds == 0:
            raise DataInvalid(f"{recipe.name}: has no folds because its data set has a test split; use --seeds")
        return list(range(recipe.data.folds))
    try:
        return list(naturals(text))
    except argparse.ArgumentTypeError as error:
        raise DataInvalid(f"--folds: {error}, or 'all'") from None


def _say(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, markup=False)

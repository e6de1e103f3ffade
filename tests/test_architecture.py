"""What holds for the tree as a whole: what the server imports, and how long a file and a function may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 300
MAX_BODY_LINES = 50  # of a function, its docstring apart
# Words by which a module's docstring says why the file is longer.
REASON = "lines"
OPTIONAL = {"service.transport.fast_lane", "service.transport.tracing"}  # need the extras `fast` and `otel`


def modules(package: str) -> list[str]:
    """Every module of a package, generated ones included."""
    names = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def sources() -> list[Path]:
    """Every file of ours that a person wrote."""
    written = [path for package in ("service", "export", "bench") for path in (ROOT / package).rglob("*.py")]
    return sorted(path for path in written if "pb" not in path.relative_to(ROOT).parts)


def test_no_module_of_the_server_brings_in_what_only_training_or_testing_needs() -> None:
    wanted = [name for name in modules("service") if name not in OPTIONAL and not name.endswith("__main__")]
    program = (
        "import importlib, sys\n"
        f"for name in {wanted!r}: importlib.import_module(name)\n"
        "unwanted = {'torch', 'torchvision', 'onnx', 'tritonclient', 'export', 'hypothesis', 'pytest'}\n"
        "unwanted |= {'opentelemetry', 'pygrpc_native'}\n"
        "print(sorted(unwanted & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_page_shows_the_layers_that_are_enforced() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = re.search(r"`(cli > [^`]+)`", page)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract for contract in contracts if contract["type"] == "layers")
    assert layers["exhaustive"], "a module that is in no layer may import whatever it likes"
    enforced = [set(re.split(r" \| ", layer)) for layer in layers["layers"]]
    assert shown is not None
    assert [set(re.split(r",\s+", layer)) for layer in re.split(r"\s+>\s+", shown[1])] == enforced


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_long_file_says_why(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    length = len(text.splitlines())
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert length <= MAX_LINES or REASON in docstring, f"{length} lines without a reason in the module's docstring"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_long(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: _body_lines(node) for node in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_BODY_LINES} == {}


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[ast.get_docstring(function) is not None :]
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


# Instants of the wall clock, which somebody may set: told to people, never compared or subtracted.
TELLS_INSTANTS = {
    "service/parts.py": "spans have their start since the epoch",
    "service/repository/loading.py": "the statistics of the protocol have the last inference since the epoch",
}


def test_durations_are_of_a_clock_that_nobody_sets() -> None:
    wall = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
    found = {
        str(path.relative_to(ROOT))
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in wall
    }
    assert {name for name in found if name.startswith("service/")} == TELLS_INSTANTS.keys()

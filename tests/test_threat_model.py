"""docs/threat-model.md names tests; each of them exists, and each threat has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = [
    line.split("|")[1:-1]
    for line in (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| threat |")
]


def names(path: Path) -> set[str]:
    """Return the tests of a file, those of a class as ``Class::test``."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


def test_there_is_a_table() -> None:
    assert len(TABLE) > 20


@pytest.mark.parametrize("row", TABLE, ids=[row[0].strip()[:50] for row in TABLE])
def test_each_threat_is_held_by_tests_that_exist(row: list[str]) -> None:
    _, _, _, held_by = row
    named = re.findall(r"`(tests/\S+?\.py)::(\S+?)`", held_by)
    assert named
    assert len(named) == held_by.count("`") // 2
    for path, test in named:
        assert test in names(ROOT / path), f"{path}::{test}"

"""Figures in documents come from results: what stands between these marks is what the command prints.

<!-- convserve-bench compare --out bench/results/RUN --show short -->
…
<!-- end -->
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.cli import main

ROOT = Path(__file__).resolve().parents[3]
_MARKED = re.compile(r"<!-- convserve-bench (compare [^\n]*?) -->\n(.*?)<!-- end -->", re.DOTALL)


def marked() -> list[tuple[str, str, str]]:
    """Document, arguments and text of each."""
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [(path.name, *found) for path in documents for found in _MARKED.findall(path.read_text())]


@pytest.mark.parametrize(("document", "arguments", "shown"), marked())
def test_a_table_is_what_its_command_prints(
    document: str, arguments: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    assert "--show" in arguments.split()
    assert main(arguments.split()) == 0
    assert shown.strip() == capsys.readouterr().out.strip(), f"put the output of the command into {document}"

"""Figures in documents come from results: what stands between these marks is what the command prints.

<!-- convserve-bench compare --out bench/results/RUN --show short -->
…
<!-- end -->

After a new run ``python -m tests.unit.bench.test_documents`` writes them anew.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

from bench.cli import main

ROOT = Path(__file__).resolve().parents[3]
_MARKED = re.compile(r"<!-- convserve-bench ((?:compare|profile) [^\n]*?) -->\n(.*?)<!-- end -->", re.DOTALL)


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def marked() -> list[tuple[str, str, str]]:
    """Document, arguments and text of each."""
    return [(path.name, *found) for path in documents() for found in _MARKED.findall(path.read_text())]


@pytest.mark.parametrize(("document", "arguments", "shown"), marked())
def test_a_table_is_what_its_command_prints(
    document: str, arguments: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    assert "--show" in arguments.split()
    assert main(arguments.split()) == 0
    assert shown.strip() == capsys.readouterr().out.strip(), f"put the output of the command into {document}"


def _printed(found: re.Match[str]) -> str:
    """Return the marks with what their command prints now."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(found[1].split()) == 0
    return f"<!-- convserve-bench {found[1]} -->\n{said.getvalue().strip()}\n<!-- end -->"


if __name__ == "__main__":
    os.chdir(ROOT)
    for document in documents():
        document.write_text(_MARKED.sub(_printed, document.read_text()))

"""What the documents refer to exists: files, headings, modules. Decisions have one form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "bench" / "results").glob("*/README.md")),
]
OURS = ("service", "export", "bench", "scripts", "tests", "deploy", "examples")
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} (.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SECTION = re.compile(r"\b([\w-]+\.md)\b[^\s,]*,\s+(?:#\s+)?\"([A-Z][^\"\n]+)\"")


def headings(page: Path) -> list[str]:
    return [found.replace("`", "") for found in HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8")))]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, of punctuation only hyphens, spaces become hyphens."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(page)}


def sources() -> list[Path]:
    return [
        path
        for folder in OURS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".sh", ".yml", ".yaml", ".html"}
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"\w+://", target):
            path, _, anchor = target.partition("#")
            there = page.parent / path if path else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


def test_sections_that_are_named_exist() -> None:
    """``[operations.md](operations.md), "Alerts"`` in a page, and the same in docstrings and comments."""
    pages = {page.name: headings(page) for page in PAGES}
    named = [
        (path.relative_to(ROOT), page, section)
        for path in [*PAGES, *sources()]
        for page, section in SECTION.findall(path.read_text(encoding="utf-8"))
        if page != "README.md"  # of other projects
    ]
    assert named
    assert [found for found in named if found[2] not in pages[found[1]]] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_that_are_named_exist(page: Path) -> None:
    tree = [f"/{path.relative_to(ROOT)}" for folder in OURS for path in (ROOT / folder).rglob("*.py")]
    prose = re.sub(r"\]\([^)]*\)", "", page.read_text(encoding="utf-8"))
    for name in re.findall(r"(?<![\w/-])[a-z_]+(?:/[a-z_0-9]+)*\.py\b", prose):
        assert any(path.endswith(f"/{name}") for path in tree), name


def test_decisions_are_numbered_and_have_one_form() -> None:
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert decisions
    for number, path in enumerate(decisions, start=1):
        text = path.read_text(encoding="utf-8")
        assert path.name.startswith(f"{number:04}-")
        assert text.startswith(f"# {number}. ")
        sections = re.findall(r"^## (.*)$", FENCED.sub("", text), re.MULTILINE)
        assert [name for name in sections if name != "What was tried"] == ["Context", "Decision", "Consequences"], path

"""What the documents say of the three commands is what these take."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from bench import cli as bench
from export import cli as export
from service import cli as service

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS_TOO = "operations.md"  # flags of other programs stand alone there, too
COMMAND = re.compile(r"(?<![\w./-])(convserve(?:-export|-bench)?) ([a-z]+)\b([^`\n]*)")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9]")


def taken() -> dict[tuple[str, str], set[str]]:
    """Return the flags that each command takes."""
    parsers = {"convserve": service._parser(), "convserve-export": export._parser(), "convserve-bench": bench._parser()}
    return {
        (program, name): set(command._option_string_actions)
        for program, parser in parsers.items()
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, command in action.choices.items()
    }


def text(document: Path) -> str:
    return document.read_text(encoding="utf-8").replace("\\\n", " ")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_command_takes_the_flags_that_it_is_shown_with(document: Path) -> None:
    commands = taken()
    for program, name, rest in COMMAND.findall(text(document)):
        if (program, name) in commands:  # else it is prose: "convserve is"
            assert set(FLAG.findall(rest)) <= commands[program, name], f"{program} {name}{rest}"


@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if path.name != OTHERS_TOO], ids=lambda path: path.name
)
def test_a_flag_that_is_spoken_of_is_taken_by_some_command(document: Path) -> None:
    """A flag that stands alone; in a command line it is tried above, or may be of another program."""
    alone = {flag for span in re.findall(r"`(--[^`\n]+)`", text(document)) for flag in FLAG.findall(span)}
    assert alone <= set().union(*taken().values())


def test_every_command_of_the_export_is_explained() -> None:
    page = text(ROOT / "docs" / "export.md")
    explained = set(re.findall(r"^### `convserve-export ([a-z]+)", page, re.MULTILINE))
    assert explained == {name for program, name in taken() if program == "convserve-export"}

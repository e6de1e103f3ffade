from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from service import logs
from service.logs import Bounded, JsonFormatter, LossyHandler, TextFormatter, set_up


def record(message: str, *arguments: object, fields: Any = None, failed: bool = False) -> logging.LogRecord:
    trace = None
    if failed:
        try:
            raise ZeroDivisionError("by nothing")
        except ZeroDivisionError:
            trace = sys.exc_info()
    made = logging.LogRecord("service.x", logging.WARNING, __file__, 1, message, arguments, trace)
    made.created = 1_700_000_000.25
    if fields is not None:
        made.fields = fields
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert "\n" not in line
    return json.loads(line)  # type: ignore[no-any-return]


def test_a_json_line_holds_time_level_logger_message_and_fields() -> None:
    entry = as_json(record("%d models\nloaded", 2, fields={"model": "m", "seconds": 0.5}))
    assert entry.pop("time") == "2023-11-14T22:13:20.250+00:00"
    assert entry == {
        "level": "warning",
        "logger": "service.x",
        "message": "2 models\nloaded",
        "model": "m",
        "seconds": 0.5,
    }


def test_a_traceback_is_a_field() -> None:
    entry = as_json(record("failed", failed=True))
    assert entry["exception"].endswith("ZeroDivisionError: by nothing")


def test_what_json_does_not_know_is_written_as_text() -> None:
    entry = as_json(record("x", fields={"where": ValueError("odd"), "name": "ümlaut"}))
    assert (entry["where"], entry["name"]) == ("odd", "ümlaut")
    assert as_json(record("x", fields="no dictionary"))["message"] == "x"


def test_text_is_for_people() -> None:
    line = TextFormatter().format(record("loaded", fields={"model": "m", "seconds": 0.5}))
    assert line.endswith(" warning loaded model=m seconds=0.5")
    assert "\n" not in line
    failed = TextFormatter().format(record("failed", failed=True))
    assert failed.splitlines()[0].endswith("failed")
    assert failed.endswith("ZeroDivisionError: by nothing")


def test_nobody_forges_a_line_of_text() -> None:
    forged = "mine\r\n12:00:00 info    all is well\x1b[2J\u2028ä"
    line = TextFormatter().format(record("refused %s", forged, fields={"request_id": forged}))
    assert line.endswith(" request_id=mine\\r\\n12:00:00 info    all is well\\x1b[2J\\u2028ä")
    assert len(line.splitlines()) == 1
    try:
        raise ValueError(forged)
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    first, *trace = TextFormatter().format(made).splitlines()
    assert first.endswith("failed")
    assert any("all is well" in part for part in trace)
    assert all(part.startswith("  ") for part in trace)


@pytest.fixture
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("_root_logger")
def test_set_up_writes_to_standard_error_from_the_level_on(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("warning", "json")
    logging.getLogger("service.x").info("quiet")
    logging.getLogger("service.x").warning("loud", extra={"fields": {"model": "m"}})
    set_up("debug", "text")
    logging.getLogger("service.x").debug("plain")
    output = capsys.readouterr()
    first, second = output.err.splitlines()
    assert output.out == ""
    assert json.loads(first)["model"] == "m"
    assert second.endswith("debug   plain")


@pytest.mark.usefixtures("_root_logger")
@pytest.mark.parametrize(("asked", "used"), [("", "NONE"), ("INFO", "INFO")])
def test_grpc_itself_writes_only_what_the_operator_asks_for(
    monkeypatch: pytest.MonkeyPatch, asked: str, used: str
) -> None:
    monkeypatch.setattr(os, "environ", {"GRPC_VERBOSITY": asked} if asked else {})
    set_up("info", "json")
    assert os.environ["GRPC_VERBOSITY"] == used


def test_what_callers_can_bring_about_is_logged_at_a_bounded_rate() -> None:
    bound = Bounded()
    assert [bound.filter(record("a call failed")) for _ in range(12)] == [True] * 10 + [False] * 2
    later = record("a call failed")
    later.created += 1
    assert bound.filter(later)


def test_metadata_that_are_not_utf_8_are_not_repeated() -> None:
    assert not Bounded().filter(record("Invalid encoding on %s", b"Bearer \xff"))


def test_who_leaves_while_being_answered_writes_no_line_with_a_path_of_their_own() -> None:
    said = "ExecuteBatchError raised in core by servicer method [/of/the/caller]"  # grpc/_cython/_cygrpc/aio
    assert not Bounded().filter(record(said, failed=True))
    assert Bounded().filter(record("ValueError raised in core by servicer method [/x]", failed=True))


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[LossyHandler, io.FileIO]]:
    """A handler before a pipe, and the end that reads."""
    monkeypatch.setattr(logs, "_PATIENCE_SECONDS", 0)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with open(writing, "w", encoding="utf-8") as stream, open(reading, "rb", buffering=0) as reader:
        made = LossyHandler(stream)
        made.setFormatter(JsonFormatter())
        yield made, reader


def read(reader: io.FileIO) -> str:
    return b"".join(iter(lambda: reader.read(2**16) or b"", b"")).decode()


def test_lines_that_nobody_reads_are_lost_and_counted(handler: tuple[LossyHandler, io.FileIO]) -> None:
    lossy, reader = handler
    for number in range(3000):  # more than a pipe holds
        lossy.handle(record("number %d", number))
    written = [json.loads(line)["message"] for line in read(reader).splitlines()]
    assert written == [f"number {number}" for number in range(len(written))]
    lossy.handle(record("read again"))
    lost, last = (json.loads(line) for line in read(reader).splitlines())
    assert (lost["level"], lost["lines"], last["message"]) == ("warning", 3000 - len(written), "read again")


def test_a_long_line_that_is_cut_spoils_no_other(handler: tuple[LossyHandler, io.FileIO]) -> None:
    lossy, reader = handler
    for _ in range(4):
        lossy.handle(record("\N{SNOWMAN}" * 10_000))
    lossy.handle(record("lost"))
    *whole, cut = read(reader).splitlines()
    assert {json.loads(line)["message"] for line in whole} == {"\N{SNOWMAN}" * 10_000}
    assert cut
    lossy.handle(record("read again"))
    end_of_cut, lost, last = read(reader).splitlines()
    assert (end_of_cut, json.loads(lost)["lines"], json.loads(last)["message"]) == ("", 5 - len(whole), "read again")


@pytest.mark.parametrize("characters", [10, 300])
def test_a_terminal_that_nobody_reads_holds_up_nobody(characters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_PATIENCE_SECONDS", 0)
    screen, terminal = os.openpty()
    with open(terminal, "w", encoding="utf-8") as stream, open(screen, "rb", buffering=0):
        lossy = LossyHandler(stream)
        lost = 0
        for _ in range(100_000 // characters):  # more than a terminal holds
            lossy.handle(record("x" * characters))
            lost += lossy._lost
        assert lost


def test_a_stream_within_the_program_is_written_to() -> None:
    stream = io.StringIO()
    lossy = LossyHandler(stream)
    for message in ("x", "y"):
        lossy.handle(record(message))
    assert stream.getvalue() == "x\ny\n"

"""Structured logging to standard error: one JSON object a line, or plain text for a terminal."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["json", "text"]

_LINES_PER_SECOND = 10
_PATIENCE_SECONDS = 0.1  # with a reader that has fallen behind
_PIECE_CHARACTERS = select.PIPE_BUF // 4  # of UTF-8: where poll reports room, so much is written without waiting
# Loggers that a caller can make write a line, or a traceback, for each call: gRPC, our own of batches that fail, of
# parts that fail or do not fit together and of unexpected errors in calls and HTTP pages, Pillow (damaged pictures),
# OpenTelemetry (trace contexts).
_DRIVEN_BY_CALLERS = (
    "grpc._cython.cygrpc",
    "service.batching.instance",
    "service.gather",
    "service.transport.call",
    "service.transport.http_endpoint",
    "PIL.TiffImagePlugin",
    "opentelemetry.trace.span",
    "opentelemetry.trace.propagation.tracecontext",
)
# How lines begin that repeat what a caller sent: gRPC's on metadata that is not UTF-8, and on the path of a call that
# ended (deadline, broken connection) before its answer was out, which is no fault of the server; OpenTelemetry's on a
# tracestate, which may have 8 KiB.
_REPEATING = (
    "Invalid encoding on ",
    "ExecuteBatchError raised in core by servicer method ",
    "Member doesn't match ",
    "Duplicate key: ",
    "Invalid key/value pair ",
)


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message, and whatever the call passed as ``extra={"fields": {...}}``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON; a traceback becomes the field ``exception``."""
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """The same for a person: message first, fields as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and below it the traceback, indented, if any. What callers sent never begins a line."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{self.formatTime(record, '%H:%M:%S')} {record.levelname.lower():7} {record.getMessage()}{fields}"
        trace = self.formatException(record.exc_info).splitlines() if record.exc_info else []
        return "\n  ".join(_printable(part) for part in (line, *trace))


class LossyHandler(logging.StreamHandler[TextIO]):
    """Writes to standard error, and loses lines rather than wait for a reader that takes none.

    A collector that hangs would otherwise hang each thread that logs: all calls, and the drain.
    """

    def __init__(self, stream: TextIO) -> None:
        """Begin with nothing lost."""
        super().__init__(stream)
        self._lost = 0
        self._cut = ""  # ends a line that was written in part
        self._descriptor = -1
        self._poll: select.poll | None = None
        with contextlib.suppress(OSError):  # a stream within the program, as in tests, has none: it never waits
            self._descriptor = _opened_anew(stream.fileno())
            self._poll = select.poll()
            self._poll.register(self._descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line if somebody reads, and before it how many were lost."""
        try:
            if self._lost and self._write(self.format(_lost_lines(self._lost))):
                self._lost = 0
            if self._lost or not self._write(self.format(record)):
                self._lost += 1
        except Exception:
            self.handleError(record)

    def _write(self, text: str) -> bool:
        line = self._cut + text + self.terminator
        if self._poll is None:
            self.stream.write(line)
            return True
        for at in range(0, len(line), _PIECE_CHARACTERS):
            piece = line[at : at + _PIECE_CHARACTERS].encode(self.stream.encoding, "backslashreplace")
            while piece:
                if not self._poll.poll(0 if self._lost else _PATIENCE_SECONDS * 1000):
                    return False
                try:
                    piece = piece[os.write(self._descriptor, piece) :]
                except BlockingIOError:
                    return False
                self._cut = self.terminator
        self._cut = ""
        return True


class Bounded(logging.Filter):
    """Passes ten lines a second, and none that repeats what a caller sent."""

    def __init__(self) -> None:
        """Begin with none passed."""
        super().__init__()
        self._second = 0
        self._lines = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is logged."""
        if record.getMessage().startswith(_REPEATING):
            return False
        if int(record.created) != self._second:
            self._second, self._lines = int(record.created), 0
        self._lines += 1
        return self._lines <= _LINES_PER_SECOND


_BOUNDS = {name: Bounded() for name in _DRIVEN_BY_CALLERS}


def set_up(level: str, log_format: LogFormat) -> None:
    """Configure the logging of this process; call once, before anything is logged and gRPC is imported."""
    # gRPC's core writes lines of its own about what peers sent, without any bound; below errors they even contain what
    # was sent, line ends included.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for name, bound in _BOUNDS.items():
        logging.getLogger(name).addFilter(bound)
    handler = LossyHandler(sys.stderr) if sys.stderr is not None else logging.NullHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def set_level(level: str) -> None:
    """Change the least severe level that is logged."""
    logging.getLogger().setLevel(level.upper())


def settings() -> dict[str, bool | int]:
    """Return the level as the switches of the protocol's LogSettings: three booleans and the verbosity."""
    level = logging.getLogger().getEffectiveLevel()
    return {
        "log_info": level <= logging.INFO,
        "log_warning": level <= logging.WARNING,
        "log_error": level <= logging.ERROR,
        "log_verbose_level": int(level <= logging.DEBUG),
    }


def _opened_anew(descriptor: int) -> int:
    """Open a terminal again, for writes that never wait: poll reports room there if it has some for a single byte."""
    try:
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:  # it is none, or another user's
        return descriptor


def _lost_lines(count: int) -> logging.LogRecord:
    fields = {"name": __name__, "levelname": "WARNING", "msg": "log lines were lost: nobody read standard error"}
    return logging.makeLogRecord({**fields, "fields": {"lines": count}})


def _printable(line: str) -> str:
    """Write control characters, line ends among them, as Python does in a literal."""
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}

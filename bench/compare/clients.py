"""Load clients that cost little: their command lines and their output. Pure."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.errors import BenchError
from bench.load.codes import OK
from bench.load.records import Records
from bench.output import last_line


class ClientFailed(BenchError):
    """A load gave no measurement; the message says why, on one line."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a client saw.

    Attributes:
        answers: Right answers, as far as it can tell.
        seconds: Length of its window.
        p50_ms: Median latency in a closed loop.
        p99_ms: 99th percentile likewise.
    """

    answers: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return self.answers / self.seconds


_MOST_OFF = 0.02  # of the bytes: ids of different lengths


def h2load_command(
    program: str, url: str, body: Path, log: Path, in_flight: int, *, seconds: float = 0.0, answers: int = 0
) -> list[str]:
    """Return the command line: one connection with ``in_flight`` streams that send the same body again and again.

    Args:
        program: Path of h2load.
        url: What is called.
        body: File that holds the body, with gRPC's five bytes.
        log: File for a line per answer.
        in_flight: Streams.
        seconds: How long to send; what is in flight at the end gets no answer.
        answers: How many answers to wait for, instead of a time: then all of the server's work was for an answer.
    """
    headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
    length = f"--requests={answers}" if answers else f"--duration={max(1, round(seconds * 1e3))}ms"
    load = ("--threads=1", "--clients=1", f"--max-concurrent-streams={in_flight}", length)
    return [program, *load, f"--data={body}", f"--log-file={log}", *headers, url]


def parse_h2load(said: str, log: str, answer_bytes: int) -> Load:
    """Read the summary and the log of a run that waited for a number of answers, so that none is unfinished.

    Args:
        said: Its standard output.
        log: Its log: start in microseconds, status, and duration in microseconds of each answer.
        answer_bytes: Size of a right message. h2load does not see gRPC's status, but a failure comes without a message.

    Raises:
        ClientFailed: Some calls failed, or the answers have another size than right ones.
    """
    done = _number(r"(\d+) succeeded", said)
    failed, errored, timed_out = (_number(rf"(\d+) {word}", said) for word in ("failed", "errored", "timeout"))
    if failed or errored or timed_out:
        raise ClientFailed(f"{failed} calls failed, {errored} were aborted, {timed_out} timed out")
    message, came = answer_bytes + 5, _number(r"\((\d+)\) data", said)
    if not done or abs(came - done * message) > _MOST_OFF * done * message:
        raise ClientFailed(f"{done} answers had {came} bytes, expected {done * message}: some were errors")
    lines = [line.split("\t") for line in log.splitlines()]
    if not lines:
        raise ClientFailed("nothing was answered")
    began, took = (np.array([int(line[place]) for line in lines]) for place in (0, 2))
    return load_of(took * 1e-6, int((began + took).max() - began.min()) * 1e-6)


def wrk_script(body: Path, content_type: str) -> str:
    """Return the Lua script that sends a body and prints what :func:`parse_wrk` reads."""
    return f"""wrk.method = "POST"
wrk.headers["Content-Type"] = "{content_type}"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT requests=%d us=%d p50=%d p99=%d status=%d broken=%d\\n", summary.requests,
    summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
"""


def wrk_command(program: str, url: str, script: Path, in_flight: int, seconds: float) -> list[str]:
    """Return the command line: a connection for each request in flight, as HTTP/1.1 needs it."""
    # It takes whole seconds only.
    load = ("-t1", f"-c{in_flight}", f"-d{max(1, round(seconds))}s", "--timeout=30s")
    return [program, *load, f"--script={script}", url]


def parse_wrk(said: str) -> Load:
    """Read what the script printed.

    Raises:
        ClientFailed: There were errors, or no answers.
    """
    line = re.search(r"^RESULT (.*)$", said, re.MULTILINE)
    if line is None:
        raise ClientFailed("wrk printed no result")
    values = {key: int(value) for key, value in (pair.split("=") for pair in line[1].split())}
    if values["status"] or values["broken"]:
        raise ClientFailed(f"{values['status']} answers were errors, {values['broken']} connections broke")
    if not values["requests"]:
        raise ClientFailed("nothing was answered")
    return Load(values["requests"], values["us"] * 1e-6, values["p50"] * 1e-3, values["p99"] * 1e-3)


def perf_analyzer_input(name: str, row: np.ndarray) -> str:
    """Write the file of what it sends: one row, with its shape, which a graph may leave open.

    Args:
        name: Of the input.
        row: Without the batch axis.
    """
    content = {"b64": base64.b64encode(row.tobytes()).decode(), "shape": [*row.shape]}
    return json.dumps({"data": [{name: content}]})


def perf_analyzer_command(
    program: str, address: str, model: str, data: Path, in_flight: int, seconds: float
) -> list[str]:
    """Return the command line: always three windows, synchronous calls."""
    load = ("-i", "grpc", f"--concurrency-range={in_flight}", f"--measurement-interval={round(seconds * 1e3 / 3)}")
    return [program, "-m", model, "-u", address, *load, "-s", "999", "-r", "3", f"--input-data={data}"]


def parse_perf_analyzer(said: str, seconds: float) -> Load:
    """Read its report.

    Raises:
        ClientFailed: It has none.
    """
    rate = re.search(r"Throughput: ([\d.]+) infer/sec", said)
    if rate is None:
        raise ClientFailed(f"perf_analyzer: {last_line(said)}")
    count = _number(r"Request count: (\d+)", said)
    p50, p99 = (_number(rf"p{percent} latency: (\d+) usec", said) * 1e-3 for percent in (50, 99))
    return Load(count, count / float(rate[1]) if count else seconds, p50, p99)


def read_records(records: Records) -> Load:
    """Sum up what our own client saw in a closed loop.

    Raises:
        ClientFailed: A call failed, or none was made.
    """
    failed = int((records.code != OK).sum())
    if failed:
        raise ClientFailed(f"{failed} of {len(records.code)} calls failed")
    return load_of(records.ended - records.intended, float(records.ended.max(initial=0.0)))


def load_of(latencies_seconds: Sequence[float] | np.ndarray, seconds: float) -> Load:
    """Sum latencies up.

    Raises:
        ClientFailed: There are none.
    """
    took = np.asarray(latencies_seconds, dtype=np.float64)
    if not took.size:
        raise ClientFailed("nothing was answered")
    p50, p99 = np.percentile(took, (50, 99), method="inverted_cdf") * 1e3
    return Load(len(took), seconds, float(p50), float(p99))


def _number(pattern: str, said: str) -> int:
    found = re.search(pattern, said)
    return int(found[1]) if found else 0

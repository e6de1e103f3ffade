"""Reads a server while a load runs: its threads' CPU, its batches, and what the samplers record."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

from bench.output import last_line
from bench.peers.proc import parse_stat
from bench.profile.samplers import SamplerFailed

_TICK = os.sysconf("SC_CLK_TCK")
_END_SECONDS = 60.0
_PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")


@dataclass(frozen=True, slots=True)
class Samplers:
    """Paths of the programs."""

    perf: str
    spy: str


def find_samplers() -> Samplers:
    """Look for perf and py-spy.

    Raises:
        SamplerFailed: One is not installed, or this user may not use it.
    """
    perf = shutil.which("perf")
    if perf is None:
        raise SamplerFailed("perf is not on the PATH: apt install linux-perf")
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if spy is None:
        raise SamplerFailed("py-spy is not installed: pip install '.[bench]' in the checkout")
    if os.geteuid() and _PARANOID.exists() and int(_PARANOID.read_text()) > 1:
        raise SamplerFailed(
            "perf is not allowed to sample the kernel: run as root, or set kernel.perf_event_paranoid to 1"
        )
    return Samplers(perf, spy)


class ThreadClock:
    """Measures, while entered, what a process and its threads use."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before: dict[int, int] = {}
        self.total_seconds = 0.0
        self.threads: dict[int, tuple[str, float]] = {}  # the kernel's name, seconds

    def __enter__(self) -> Self:
        """Begin."""
        self._before = {number: ticks for number, (_, ticks) in self._read().items()}
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        now = self._read()
        used = {number: (name, (ticks - self._before.get(number, 0)) / _TICK) for number, (name, ticks) in now.items()}
        self.total_seconds = used.pop(0)[1]
        self.threads = used

    def _read(self) -> dict[int, tuple[str, int]]:
        """Return name and ticks by thread; number 0 is the process, ended threads included."""
        folder = Path(f"/proc/{self._pid}")
        found = {0: ("", parse_stat((folder / "stat").read_text()).ticks)}
        for thread in (folder / "task").iterdir():
            try:
                found[int(thread.name)] = (
                    (thread / "comm").read_text().strip(),
                    parse_stat((thread / "stat").read_text()).ticks,
                )
            except OSError:
                continue  # it ended
        return found


class BatchCounter:
    """Counts, while entered, the batches that a server runs, and their rows, by its /metrics."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._before: dict[str, float] = {}
        self.rows_a_batch = self.padding = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        self._before = self._read()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """End."""
        if error is not None:
            return
        gone = {name: value - self._before.get(name, 0.0) for name, value in self._read().items()}
        batches = gone.get("convserve_batch_size_count", 0.0)
        if not batches:
            raise SamplerFailed("the server counted no batch")
        self.rows_a_batch = gone["convserve_batch_size_sum"] / batches
        self.padding = gone["convserve_batch_padding_ratio_sum"] / gone["convserve_batch_padding_ratio_count"]

    def _read(self) -> dict[str, float]:
        with urllib.request.urlopen(self._url, timeout=_END_SECONDS) as answer:  # noqa: S310 - http, written above
            families = text_string_to_metric_families(answer.read().decode())
        wanted = ("convserve_batch_size", "convserve_batch_padding_ratio")
        samples = [sample for family in families if family.name in wanted for sample in family.samples]
        return {sample.name: sample.value for sample in samples if not sample.name.endswith("_bucket")}


@contextmanager
def sampling(command: Sequence[str], out: Path) -> Iterator[None]:
    """Run a sampler while the context lasts; at the end its file is written.

    Raises:
        SamplerFailed: It did not end, or wrote nothing.
    """
    out.unlink(missing_ok=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as sampler:
        try:
            yield
            if sampler.poll() is None:
                sampler.send_signal(signal.SIGINT)
            said, _ = sampler.communicate(timeout=_END_SECONDS)
        except BaseException as error:
            sampler.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise SamplerFailed(f"{Path(command[0]).name} did not end") from None
            raise
    if not out.exists() or not out.stat().st_size:
        if sampler.returncode == 0:
            raise SamplerFailed(f"{Path(command[0]).name} took no sample: give more --seconds")
        raise SamplerFailed(f"{Path(command[0]).name} recorded nothing: {last_line(said)}")


def thread_names(program: str, pid: int) -> dict[int, str]:
    """Return the names of Python's threads, by the kernel's numbers.

    Raises:
        SamplerFailed: py-spy failed.
    """
    threads = json.loads(_output_of([program, "dump", "--json", "--pid", str(pid)]))
    return {int(thread["os_thread_id"]): str(thread["thread_name"] or "unnamed") for thread in threads}


def perf_script(program: str, recorded: Path) -> str:
    """Return what ``perf script`` prints of a recording.

    Raises:
        SamplerFailed: It cannot read the recording.
    """
    return _output_of([program, "script", "-i", str(recorded), "-F", "tid,ip,sym,dso"])


def _output_of(command: Sequence[str]) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_END_SECONDS)
    if ran.returncode:
        raise SamplerFailed(f"{Path(command[0]).name} {command[1]}: {last_line(ran.stderr)}")
    return ran.stdout

"""What a peer is, and what it is given."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from bench.peers.environment import Environment

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).parent / "programs"
MOST_ROWS = 64  # rows a run, where a peer batches: all that is in flight at most
Door = Literal["grpc", "http", "none"]


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """A model that is served, and what it is asked.

    Attributes:
        name: Of the model.
        repository: Folder of ``NAME/VERSION/model.onnx``.
        input: Name of the only input.
        datatype: Of the input, as the protocol spells it.
        output: Name of the output, float32 (N, K).
        rows: What is sent, one row a call: the answers to all are checked, the first is used for load. Encoded
            pictures are flat arrays of their bytes.
        row_shape: Of a row as the graph takes it.
        encoded: Whether rows are JPEG files, which the server has to decode.
        in_flight: Numbers of calls in flight that suit this model; None: the usual ones.
    """

    name: str
    repository: Path
    input: str
    datatype: Literal["UINT8", "INT64"]
    output: str
    rows: Sequence[np.ndarray]
    row_shape: tuple[int, ...]
    encoded: bool = False
    in_flight: tuple[int, ...] | None = None

    @property
    def file(self) -> Path:
        """The graph."""
        return self.repository / self.name / "1" / "model.onnx"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs.

    Attributes:
        folder: For its files and log.
        environment: Its own, or the one that this program runs in.
        port: Of the door that is measured.
        spare_port: Another that is free.
    """

    folder: Path
    environment: Environment
    port: int
    spare_port: int


@dataclass(frozen=True, slots=True)
class Command:
    """How a peer is started.

    Attributes:
        argv: Program and arguments.
        variables: Added to the environment.
    """

    argv: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)


class Peer(ABC):
    """A server that can be compared.

    All processes that come from the one that :meth:`command` starts belong to it: see ``bench.peers.process``. It is
    ready once its answers are right.

    Attributes:
        name: Its name in the results.
        home: Name of its environment, which several peers may share.
        door: The protocol that it speaks; ``none``: it is no server.
        path: What is called: a gRPC method, or the path of a URL.
        content_type: Of an HTTP request.
        requirements: What its environment needs: the arguments of one ``pip install`` after another.
        shows: Distributions whose versions the results show.
        program: The file in ``programs`` that is started, unless :meth:`command` starts something else.
        batch: Rows in a run of the program.
        instances: Of the program.
    """

    name: str
    home: str
    door: Door
    path: str
    content_type: str
    requirements: tuple[tuple[str, ...], ...]
    shows: tuple[str, ...]
    program: str
    batch: int = 1
    instances: int = 1

    @property
    @abstractmethod
    def tuning(self) -> str:
        """How it was tuned to its best, on one line."""

    def command(self, case: Case, place: Place) -> Command:
        """Write its files, and return how it is started."""
        argv = (str(place.environment.python), str(PROGRAMS / self.program))
        return Command(argv, program_variables(case, place, self.batch, self.instances))

    @abstractmethod
    def request(self, case: Case, row: np.ndarray) -> bytes:
        """Return the body that asks for one row; without gRPC's five bytes."""

    @abstractmethod
    def top_1(self, case: Case, answer: bytes) -> int:
        """Return the most probable class of an answer to one row.

        Raises:
            PeerFailed: It cannot be read.
        """


def program_variables(case: Case, place: Place, batch: int, instances: int) -> dict[str, str]:
    """Return the environment variables that ``programs/serving.py`` reads."""
    return {
        "BENCH_NAME": case.name,
        "BENCH_MODEL": str(case.file),
        "BENCH_INPUT": case.input,
        "BENCH_OUTPUT": case.output,
        "BENCH_DATATYPE": case.datatype.lower(),
        "BENCH_SHAPE": ",".join(map(str, case.row_shape)),
        "BENCH_ENCODED": "1" if case.encoded else "",
        "BENCH_BATCH": str(batch),
        "BENCH_INSTANCES": str(instances),
        "BENCH_PORT": str(place.port),
        "BENCH_SPARE_PORT": str(place.spare_port),
        "PYTHONPATH": str(PROGRAMS),
        "PATH": f"{place.environment.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
    }


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])

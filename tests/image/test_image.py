"""The container image, run as in production: what is in it, that it answers, and that stopping it loses no call."""

from __future__ import annotations

import itertools
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.client import CallFailed, Client
from tests.image.conftest import Container, Engine

pytestmark = pytest.mark.image

EXAMPLES = Path(__file__).parents[2] / "examples"
LARGEST_BYTES = 400_000_000
CALLERS = 8
CALLS_BEFORE_STOP = 200
GUARD_SECONDS = 60  # turns a hang into a failure; no test takes so long


def test_small(engine: Engine) -> None:
    assert int(engine("image", "inspect", engine.tag, "--format", "{{.Size}}")) <= LARGEST_BYTES


def test_holds_nothing_that_serving_does_not_need(engine: Engine) -> None:
    program = """
import importlib.util, os, shutil, sys
wrong = [tool for tool in ("cc", "gcc", "g++", "clang", "make", "cargo") if shutil.which(tool)]
unwanted = ("torch", "onnx", "huggingface_hub", "tritonclient", "pytest", "export", "tests", "bench")
wrong += [name for name in unwanted if importlib.util.find_spec(name)]
names = {".git", "tests", "shared", "pip-cache"}
for top in ("/opt", "/models", "/root", "/build", "/home", "/tmp", "/work", "/staging"):
    for folder, folders, files in os.walk(top):
        wrong += [os.path.join(folder, name) for name in {*folders, *files} & names]
wrong += [path for path in ("/root/.cache", "/tmp/.cache", "/build", "/staging") if os.path.exists(path)]
print(wrong)
"""
    assert engine.python(program) == "[]"


def test_runs_as_nobody_in_particular_on_a_root_it_cannot_write(engine: Engine) -> None:
    program = """
import errno, os, pathlib
assert os.getuid() == 10001 and os.getgid() == 10001, (os.getuid(), os.getgid())
effective = [line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")]
assert int(effective[0].split()[1], 16) == 0, effective
for folder in ("/", "/opt/convserve", "/models", "/etc"):
    try:
        pathlib.Path(folder, "probe").touch()
    except OSError as error:
        assert error.errno in (errno.EROFS, errno.EACCES), error
    else:
        raise AssertionError(folder)
pathlib.Path.home().joinpath("probe").touch()
print("as expected")
"""
    assert engine.python(program) == "as expected"


def test_sends_no_usage_data(engine: Engine) -> None:
    assert engine.python("import os; print(os.environ['ORT_DISABLE_TELEMETRY'])") == "1"


def test_tells_what_it_is(engine: Engine) -> None:
    labels = json.loads(engine("image", "inspect", engine.tag, "--format", "{{json .Config.Labels}}"))
    assert labels["org.opencontainers.image.title"] == "convserve"
    version = engine("run", "--rm", "--pull=never", *("--read-only", "--network=none"), engine.tag, "--version")
    assert version == f"convserve {labels['org.opencontainers.image.version']}"


def test_healthy_and_answers(container: Container) -> None:
    container.engine("healthcheck", "run", container.name)
    with Client(container.address) as client:
        seven = (EXAMPLES / "pictures" / "digit-7.jpg").read_bytes()
        pictures = client.classify_images("lenet5-mnist", [seven], top_k=1, timeout_seconds=10)
        sentence = (EXAMPLES / "sentences.txt").read_text(encoding="utf-8").splitlines()[0]
        sentences = client.classify_sentences("textcnn-mr", [sentence], top_k=1, timeout_seconds=10)
        about = client.describe("lenet5-mnist")
    assert pictures.results[0].classification.scored_labels[0].label == "7"
    assert sentences.results[0].classification.scored_labels[0].label == "positive"
    assert about.verified
    assert about.actual_execution_provider == "CPUExecutionProvider"


@dataclass(frozen=True)
class Call:
    """One call of the load: when it was sent, and how it ended."""

    sent: float
    status: str


def test_a_stop_under_load_loses_no_call(container: Container) -> None:
    """Before SIGTERM and during lame duck: answered. After the drain: UNAVAILABLE. Nothing else, and exit code 0."""
    picture = (EXAMPLES / "pictures" / "digit-3.png").read_bytes()
    calls: list[Call] = []
    counter = itertools.count(1)
    warm = threading.Event()

    def call_until_refused() -> None:
        with Client(container.address) as client:
            status = "OK"
            while status == "OK":
                sent, status = time.monotonic(), _status_of_call(client, picture)
                calls.append(Call(sent, status))
                if next(counter) == CALLS_BEFORE_STOP:
                    warm.set()

    callers = [threading.Thread(target=call_until_refused, daemon=True) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    assert warm.wait(GUARD_SECONDS)
    before = time.monotonic()
    container.engine("kill", "--signal", "TERM", container.name)
    after = time.monotonic()
    for caller in callers:
        caller.join(GUARD_SECONDS)
    exit_code = container.engine("wait", container.name)

    assert exit_code == "0", container.logs()
    assert {call.status for call in calls if call.sent < before} == {"OK"}
    assert any(call.status == "OK" for call in calls if call.sent > after), "no call was answered during lame duck"
    refused = [call.status for call in calls if call.status != "OK"]
    assert refused == ["UNAVAILABLE"] * CALLERS


def _status_of_call(client: Client, picture: bytes) -> str:
    try:
        response = client.classify_images("lenet5-mnist", [picture], top_k=1, timeout_seconds=20)
    except CallFailed as failure:
        return str(failure).partition(":")[0]
    return "OK" if response.results[0].HasField("classification") else str(response.results[0].error)

"""The container image, run as in production: that it starts soon, answers, and that stopping it loses no call."""

from __future__ import annotations

import itertools
import json
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from service.client import CallFailed, Client
from service.pb.inference import grpc_service_pb2 as pb
from service.pb.inference import grpc_service_pb2_grpc as pb_grpc
from tests.image.conftest import Container, Engine, started

pytestmark = pytest.mark.image

EXAMPLES = Path(__file__).parents[2] / "examples"
CALLERS = 8
CALLS_BEFORE_STOP = 200
READY_AFTER_SECONDS = 2.0
SLOWER_IN_CI = 5.0  # what shares the machine of a CI takes cores away
STARTED_AT = '{{.State.StartedAt.UTC.Format "2006-01-02T15:04:05.999999Z07:00"}}'
GUARD_SECONDS = 60  # turns a hang into a failure; no test takes so long


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


def test_keeps_freed_memory_in_two_arenas(engine: Engine) -> None:
    assert engine.python("import os; print(os.environ['MALLOC_ARENA_MAX'])") == "2"


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


def test_an_integer_that_does_not_fit_is_refused_with_the_image_s_protobuf_too(container: Container) -> None:
    request = pb.ModelInferRequest(model_name="lenet5-mnist")
    tensor = request.inputs.add(name="images", datatype="UINT8", shape=[1, 28, 28, 1])
    tensor.contents.uint_contents.extend([256] * 784)
    with grpc.insecure_channel(container.address) as channel, pytest.raises(grpc.RpcError) as raised:
        pb_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "does not fit UINT8" in raised.value.details()


def test_starts_soon(engine: Engine) -> None:
    """From the start of its process until every model is proven and gRPC health says so, on one core; best of three."""
    seconds = []
    for _ in range(3):
        with started(engine) as container:
            ready = datetime.now(UTC)
            begun = datetime.fromisoformat(engine("inspect", container.name, "--format", STARTED_AT))
        seconds.append((ready - begun).total_seconds())
    print(f"ready after {min(seconds):.2f} s")
    assert min(seconds) < READY_AFTER_SECONDS * SLOWER_IN_CI, seconds


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

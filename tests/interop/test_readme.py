"""What README tells a newcomer to paste works when pasted."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.integration.harness import DEADLINE_SECONDS, MODELS, ROOT, TRANSPORTS, ServerProcess

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PYTHON = [block for language, block in BLOCKS if language == "python"]
SHELL = "".join(block for language, block in BLOCKS if not language).splitlines()


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with ServerProcess(MODELS, request.param) as running:
        yield running


def run(command: list[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=2 * DEADLINE_SECONDS, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize(("block", "expected"), list(zip(PYTHON, [":7:7", "positive"], strict=True)))
def test_python_blocks(server: ServerProcess, block: str, expected: str):
    printed = run([sys.executable, "-c", block.replace("127.0.0.1:8001", f"127.0.0.1:{server.grpc_port}")])
    assert expected in printed


def test_the_program_among_the_examples(server: ServerProcess):
    address = f"127.0.0.1:{server.grpc_port}"
    program = [sys.executable, "-m", "examples.classify_folder"]  # by -m, so that it finds this checkout
    printed = run([*program, address, "lenet5-mnist", "examples/pictures"])
    digits = [line.split("\t") for line in printed.splitlines() if line.startswith("digit-")]
    assert len(digits) > 9
    assert all(name[len("digit-")] == label for name, label, _ in digits)


def test_the_program_among_the_examples_says_in_one_line_what_is_wrong():
    program = [sys.executable, "-m", "examples.classify_folder", "localhost", "lenet5-mnist", "examples/pictures"]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False, cwd=ROOT)
    assert ended.returncode == 1
    assert ended.stderr.startswith("server: expected HOST:PORT, ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("convserve classify")])
def test_classify(server: ServerProcess, line: str):
    command = shlex.split(line)[1:]
    printed = run([sys.executable, "-m", "service", *command, "--server", f"127.0.0.1:{server.grpc_port}"])
    assert "version 1 on CPUExecutionProvider, verified" in printed


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("grpcurl") and " -d " in line])
def test_grpcurl_by_reflection(server: ServerProcess, line: str):
    """Do what grpcurl does with these arguments: types by reflection, the message from JSON."""
    arguments = shlex.split(line)
    data, (service, _, method) = arguments[arguments.index("-d") + 1], arguments[-1].rpartition("/")
    database = ProtoReflectionDescriptorDatabase(server.client.channel)
    assert service in database.get_services()
    described = descriptor_pool.DescriptorPool(database).FindServiceByName(service).FindMethodByName(method)
    request_type, response_type = map(message_factory.GetMessageClass, (described.input_type, described.output_type))
    call = server.client.channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=request_type.SerializeToString,
        response_deserializer=response_type.FromString,
    )
    answer = json_format.MessageToDict(call(json_format.Parse(data, request_type()), timeout=DEADLINE_SECONDS))
    assert answer["modelName"] in data

"""Both transports give the same answer to any message, and no message is answered with a fault of the server.

Valid requests are damaged at random, always in the same ways: fields are dropped, repeated, swapped or filled with
nonsense, at any depth, and bytes are changed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest

from service.fields import write_varint
from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import grpc_service_pb2 as pb
from tests.integration import graphs
from tests.integration.harness import ADD_SUB, DEADLINE_SECONDS, MODELS, ServerProcess, failure_of, infer_request

ROUNDS = 1500
SEED = 20261130
INFERENCE = "/inference.GRPCInferenceService/"
CLASSIFICATION = "/convserve.classification.v1.ClassificationService/"
FAULTS = {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "CANCELLED", "UNAVAILABLE"}
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
NUMBERS = (0, 1, 3, 4, 127, 128, 2**31 - 1, 2**32, 2**62, 2**63, 2**64 - 1)
BYTES = (
    b"",
    b"a",
    b"x",
    b"sum",
    b"FP32",
    b"BYTES",
    b"1",
    b"-1",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "ü\0".encode(),
    b"9" * 300,
)

Field = tuple[int, int, Any]

TEXT = infer_request("strings", {"x": np.array([["a"], ["b"]], dtype=object)}, ["y"], id="mine")
TEXT.parameters["priority"].uint64_param = 1
TYPED = pb.ModelInferRequest(model_name="scores")
TYPED.inputs.add(name="x", datatype="UINT8", shape=[1, 3]).contents.uint_contents.extend([1, 2, 3])
REQUESTS: Sequence[tuple[str, Any]] = (
    (INFERENCE + "ModelInfer", ADD_SUB),
    (INFERENCE + "ModelInfer", TEXT),
    (INFERENCE + "ModelInfer", TYPED),
    (INFERENCE + "ModelInfer", infer_request("scores", {"x": np.ones((2, 3), np.uint8)}, ["y"], classes=2)),
    (INFERENCE + "ModelInfer", infer_request("textcnn-mr", {"ids": [b"a good film", b"bad"]})),
    (
        CLASSIFICATION + "ClassifySentences",
        classification.ClassifySentencesRequest(model_name="textcnn-mr", sentences=["a good film"], top_k=1),
    ),
    (INFERENCE + "ModelReady", pb.ModelReadyRequest(name="add-sub", version="1")),
    (INFERENCE + "SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterRequest(name="r", key="/no", byte_size=1)),
    (INFERENCE + "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="add-sub")),
)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[ServerProcess]]:
    root = tmp_path_factory.mktemp("agreeing")
    for name in ("add-sub", "scores", "strings"):
        graphs.write(root, name, graphs.GRAPHS[name]())
    (root / "textcnn-mr").symlink_to(MODELS / "textcnn-mr", target_is_directory=True)
    with ExitStack() as stack:
        yield [stack.enter_context(ServerProcess(root, name, "--device", "cpu")) for name in ("grpcio", "native")]


def test_any_message_gets_the_same_answer(servers: Sequence[ServerProcess]):
    chance = random.Random(SEED)
    for _ in range(ROUNDS):
        method, request = chance.choice(REQUESTS)
        payload = request.SerializeToString()
        for _ in range(chance.choice((0, 1, 1, 2, 4))):
            payload = damaged(payload, chance)
        compression = chance.choice((None, None, grpc.Compression.Gzip))
        first, second = (outcome(server, method, payload, compression) for server in servers)
        assert first == second, (method, payload)
        assert first[0] not in FAULTS, (first, method, payload)
    for server in servers:
        assert server.client.infer(ADD_SUB).model_name == "add-sub"
        assert server.metric("convserve_inflight_requests") == 0
        assert not [line for line in server.lines if "Traceback" in line]


def outcome(server: ServerProcess, method: str, payload: bytes, compression: Any) -> tuple[Any, ...]:
    """Return what the caller sees, apart from ids that a server makes."""
    call = server.client.channel.unary_unary(method)
    try:
        answer, told = call.with_call(
            payload, timeout=DEADLINE_SECONDS, compression=compression, metadata=[("x-request-id", "same")]
        )
    except grpc.RpcError as error:
        failed = failure_of(error)
        return failed.code.name, failed.message, str(failed.info), failed.retry_seconds
    return "OK", answer, told.trailing_metadata()


def damaged(payload: bytes, chance: random.Random, depth: int = 0) -> bytes:
    """Damage a message in one place."""
    try:
        fields = parsed(payload)
    except IndexError:
        fields = []
    if not fields or chance.random() < 0.1:
        at = chance.randrange(len(payload) + 1)
        return payload[:at] + chance.choice(BYTES) + payload[at + chance.randrange(4) :]
    at, other = chance.randrange(len(fields)), chance.randrange(len(fields))
    number, kind, value = fields[at]
    if kind == DELIMITED and value and depth < 4 and chance.random() < 0.6:
        fields[at] = (number, kind, damaged(value, chance, depth + 1))
        return serialised(fields)
    match chance.randrange(8):
        case 0:
            del fields[at]
        case 1:
            fields += [fields[at]] * chance.choice((1, 40, 5000))
        case 2:
            fields[at], fields[other] = fields[other], fields[at]
        case 3:
            fields[at] = (fields[other][0], kind, value)
        case 4:
            fields[at] = (number, kind, chance.choice(NUMBERS if kind == VARINT else BYTES))
        case 5:
            fields[at] = (number, *chance.choice(((VARINT, 1), (DELIMITED, b"x"), (FIXED32, bytes(4)))))
        case 6:
            fields.append((chance.choice((1, 3, 5, 7, 8, 99)), DELIMITED, chance.choice(BYTES)))
        case _:  # groups, which the parser bounds in depth
            deep = chance.choice((1, 99, 101, 3000))
            return serialised(fields) + b"\x4b" * deep + b"\x4c" * deep
    return serialised(fields)


def parsed(payload: bytes) -> list[Field]:
    """Split a message into its fields; IndexError if it is damaged."""
    fields: list[Field] = []
    at = 0

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            number |= (payload[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if payload[at - 1] < 0x80:
                return number

    while at < len(payload):
        tag = varint()
        kind = tag & 7
        if kind == VARINT:
            fields.append((tag >> 3, kind, varint()))
            continue
        size = varint() if kind == DELIMITED else {FIXED64: 8, FIXED32: 4}.get(kind, len(payload))
        if at + size > len(payload):
            raise IndexError
        fields.append((tag >> 3, kind, payload[at : at + size]))
        at += size
    return fields


def serialised(fields: Sequence[Field]) -> bytes:
    parts = []
    for number, kind, value in fields:
        parts.append(write_varint(number << 3 | kind))
        if kind == VARINT:
            parts.append(write_varint(value))
        else:
            parts += [write_varint(len(value)) if kind == DELIMITED else b"", value]
    return b"".join(parts)

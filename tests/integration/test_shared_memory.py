"""Tensors in system shared memory, in and out, over real calls."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.pb.inference import grpc_service_pb2 as pb
from tests.integration.harness import DEADLINE_SECONDS, ServerProcess, failure

FOLDER = Path("/dev/shm")
A = np.arange(4, dtype=np.float32).reshape(1, 4)
B = np.full((1, 4), 10, dtype=np.float32)


class Region:
    """An object in shared memory, registered with a server under its own name."""

    def __init__(self, server: ServerProcess, size: int) -> None:
        self.name = f"convserve-test-{uuid.uuid4().hex}"
        self.path = FOLDER / self.name
        self.path.write_bytes(bytes(size))
        self._server = server
        request = pb.SystemSharedMemoryRegisterRequest(name=self.name, key=f"/{self.name}", byte_size=size)
        server.client.inference.SystemSharedMemoryRegister(request, timeout=DEADLINE_SECONDS)

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def array(self, offset: int, count: int) -> list[float]:
        return np.frombuffer(self.path.read_bytes(), dtype=np.float32, count=count, offset=offset).tolist()

    def close(self) -> None:
        self.path.unlink(missing_ok=True)
        request = pb.SystemSharedMemoryUnregisterRequest(name=self.name)
        self._server.client.inference.SystemSharedMemoryUnregister(request, timeout=DEADLINE_SECONDS)


@pytest.fixture
def region(server: ServerProcess) -> Iterator[Region]:
    made = Region(server, 256)
    yield made
    made.close()


def place(tensor: Any, region: str, size: int, offset: int = 0) -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def request(region: Region) -> pb.ModelInferRequest:
    """``a`` in shared memory, ``b`` by value."""
    region.write(16, A.tobytes())
    message = pb.ModelInferRequest(model_name="add-sub", model_version="1")
    place(message.inputs.add(name="a", datatype="FP32", shape=[1, 4]), region.name, 16, 16)
    message.inputs.add(name="b", datatype="FP32", shape=[1, 4])
    message.raw_input_contents.append(B.tobytes())
    return message


def test_inputs_and_outputs_may_lie_in_shared_memory(server: ServerProcess, region: Region):
    message = request(region)
    place(message.outputs.add(name="difference"), region.name, 16, 64)
    message.outputs.add(name="sum")
    answer = server.client.infer(message)
    difference, total = answer.outputs
    assert (difference.name, list(difference.shape), answer.raw_output_contents[0]) == ("difference", [1, 4], b"")
    assert difference.parameters["shared_memory_region"].string_param == region.name
    assert region.array(64, 4) == (A - B)[0].tolist()
    assert total.name == "sum"
    assert np.frombuffer(answer.raw_output_contents[1], np.float32).tolist() == (A + B)[0].tolist()


def test_status_lists_the_region_until_it_is_unregistered(server: ServerProcess, region: Region):
    status = server.client.inference.SystemSharedMemoryStatus
    entry = status(pb.SystemSharedMemoryStatusRequest(name=region.name)).regions[region.name]
    assert (entry.key, entry.offset, entry.byte_size) == (f"/{region.name}", 0, 256)
    assert region.name in status(pb.SystemSharedMemoryStatusRequest()).regions
    region.close()
    assert region.name not in status(pb.SystemSharedMemoryStatusRequest()).regions
    told = failure(status, pb.SystemSharedMemoryStatusRequest(name=region.name))
    assert told.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": "nobody"},
        {"size": 17},
        {"size": 12},
        {"size": 0},
        {"offset": 250},
        {"offset": 2**62},
    ],
    ids=str,
)
def test_a_part_that_does_not_fit_is_refused(server: ServerProcess, region: Region, wrong: dict[str, Any]):
    part = {"region": region.name, "size": 16, "offset": 0} | wrong
    message = request(region)
    place(message.inputs[0], part["region"], part["size"], part["offset"])
    assert failure(server.client.infer, message).code is grpc.StatusCode.INVALID_ARGUMENT
    if part["size"] != 17:
        message = request(region)
        place(message.outputs.add(name="sum"), part["region"], part["size"], part["offset"])
        assert failure(server.client.infer, message).code is grpc.StatusCode.INVALID_ARGUMENT


def test_an_object_that_shrinks_fails_the_call_alone(server: ServerProcess, region: Region):
    message = request(region)
    os.truncate(region.path, 8)
    told = failure(server.client.infer, message)
    assert told.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "it was shrunk" in told.message
    region.path.write_bytes(bytes(256))
    assert server.client.infer(request(region)).model_name == "add-sub"


def test_a_region_is_registered_once_and_without_a_path(server: ServerProcess, region: Region):
    register = server.client.inference.SystemSharedMemoryRegister
    again = pb.SystemSharedMemoryRegisterRequest(name=region.name, key=region.name, byte_size=8)
    assert failure(register, again).code is grpc.StatusCode.ALREADY_EXISTS
    for key in ("../etc/passwd", "/etc/passwd", "", "no-such-object"):
        bad = pb.SystemSharedMemoryRegisterRequest(name="bad", key=key, byte_size=1)
        assert failure(register, bad).code is grpc.StatusCode.INVALID_ARGUMENT


def test_there_are_no_cuda_regions_to_unregister(server: ServerProcess):
    """Triton's clients and perf_analyzer clear both kinds of memory before or after they use one."""
    for name in ("", "region"):
        request = pb.CudaSharedMemoryUnregisterRequest(name=name)
        server.client.inference.CudaSharedMemoryUnregister(request, timeout=DEADLINE_SECONDS)


def test_cuda_regions_are_not_implemented(server: ServerProcess):
    stub = server.client.inference
    for call, request in (
        (stub.CudaSharedMemoryStatus, pb.CudaSharedMemoryStatusRequest()),
        (stub.CudaSharedMemoryRegister, pb.CudaSharedMemoryRegisterRequest(name="region")),
    ):
        told = failure(call, request)
        assert told.code is grpc.StatusCode.UNIMPLEMENTED
        assert told.message.startswith("CUDA shared memory is not supported")
        assert told.info is not None

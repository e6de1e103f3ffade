"""shared-memory: tensors in system shared memory. Only for a server on this machine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bench.conformance.model import Arrays, Model, outputs_of
from bench.conformance.outcome import CallFailed, CheckFailed, NotApplicable, expect, expect_equal
from bench.conformance.registry import model_check, server_check
from bench.conformance.tensors import from_raw, to_raw
from service.pb.inference import grpc_service_pb2 as pb

_SOURCE = "Triton, extension_shared_memory.md"
_CODES = "Triton, extension_shared_memory.md; the code: Triton"
_FOLDER = Path("/dev/shm")  # noqa: S108 - where shm_open keeps its objects on Linux
_SIZE = 1 << 20
_INVALID = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


@dataclass(frozen=True)
class _Region:
    """A shared memory object of this process, and the name it is registered under."""

    name: str
    key: str
    path: Path

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def read(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


@contextmanager
def _object() -> Iterator[_Region]:
    """Make a shared memory object of ``_SIZE`` bytes, not yet registered."""
    name = f"conformance-{uuid.uuid4().hex[:12]}"
    region = _Region(name, f"/{name}", _FOLDER / name)
    region.path.write_bytes(bytes(_SIZE))
    try:
        yield region
    finally:
        region.path.unlink(missing_ok=True)


@contextmanager
def _registered(suite: Any) -> Iterator[_Region]:
    _needs(suite)
    with _object() as region:
        _register(suite, region)
        try:
            yield region
        finally:
            suite.target.call("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=region.name))


def _needs(suite: Any) -> None:
    """Skip the check unless the server has the extension and can see our memory."""
    suite.target.call("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest())
    if not suite.target.is_local or not os.access(_FOLDER, os.W_OK):
        raise NotApplicable("the server is on another machine, or there is no /dev/shm")


def _register(suite: Any, region: _Region, **changes: Any) -> None:
    suite.target.call("SystemSharedMemoryRegister", _request(region, **changes))


def _request(region: _Region, **changes: Any) -> pb.SystemSharedMemoryRegisterRequest:
    fields = {"name": region.name, "key": region.key, "offset": 0, "byte_size": _SIZE, **changes}
    return pb.SystemSharedMemoryRegisterRequest(**fields)


def _regions(suite: Any, name: str = "") -> dict[str, tuple[str, int, int]]:
    answer = suite.target.call("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest(name=name))
    return {name: (region.key, region.offset, region.byte_size) for name, region in answer.regions.items()}


def _point(tensor: Any, region: str, size: int, offset: int) -> None:
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def _through(model: Model, arrays: Arrays, region: _Region) -> pb.ModelInferRequest:
    """Return a request whose inputs lie in the region, one after the other."""
    request = model.request(arrays)
    del request.raw_input_contents[:]
    offset = 0
    for tensor in request.inputs:
        data = to_raw(arrays[tensor.name])
        region.write(offset, data)
        _point(tensor, region.name, len(data), offset)
        offset += len(data)
    return request


@server_check("shared-memory", "a region is listed while it is registered, and not after", _SOURCE)
def register(suite: Any) -> None:
    with _registered(suite) as region:
        expected = (region.key, 0, _SIZE)
        expect_equal(_regions(suite).get(region.name), expected, "key, offset and size of the region")
        expect_equal(_regions(suite, region.name), {region.name: expected}, "regions of that name")
    expect(region.name not in _regions(suite), "the region gone", sorted(_regions(suite)))


@model_check("shared-memory", "inputs in a region give the same answer as raw contents", _SOURCE)
def inputs(suite: Any, model: Model) -> None:
    with _registered(suite) as region:
        arrays = model.arrays(min(2, model.max_rows), seed=16)
        expected = outputs_of(suite.target.infer(model.request(arrays)))
        came = outputs_of(suite.target.infer(_through(model, arrays, region)))
        model.check_same(expected, came, "inputs in shared memory")
        model.check_mirrors(arrays, came)


@model_check("shared-memory", "an output is written into a region, and is not in the message", _SOURCE)
def outputs(suite: Any, model: Model) -> None:
    with _registered(suite) as region:
        arrays = model.arrays(min(2, model.max_rows), seed=16)
        expected = outputs_of(suite.target.infer(model.request(arrays)))
        name = model.outputs[-1].name
        request = _through(model, arrays, region)
        _point(request.outputs.add(name=name), region.name, _SIZE // 2, _SIZE // 2)
        response = suite.target.infer(request)
        expect_equal([output.name for output in response.outputs], [name], "outputs")
        output = response.outputs[0]
        expect(not any(response.raw_output_contents), "no raw contents", response.raw_output_contents)
        region_name = output.parameters["shared_memory_region"].string_param  # Triton does not return it
        expect(region_name in ("", region.name), f"region '{region.name}' in the answer, or none", region_name)
        data = region.read(_SIZE // 2, len(to_raw(expected[name])))
        came = {name: from_raw(data, output.datatype, output.shape)}
        model.check_same(expected, came, "an output in shared memory")


@model_check("shared-memory", "a region that is not registered is INVALID_ARGUMENT or NOT_FOUND", _CODES)
def unknown_region(suite: Any, model: Model) -> None:
    with _registered(suite) as region:
        request = _through(model, model.arrays(), region)
        for tensor in request.inputs:
            tensor.parameters["shared_memory_region"].string_param = "no-such-region"
        suite.target.refused("ModelInfer", request, *_INVALID)


@model_check("shared-memory", "an input beyond the end of its region is INVALID_ARGUMENT", _CODES)
def beyond_the_end(suite: Any, model: Model) -> None:
    with _registered(suite) as region:
        for offset in (_SIZE - 1, _SIZE * 2, 2**62):
            request = _through(model, model.arrays(), region)
            request.inputs[0].parameters["shared_memory_offset"].int64_param = offset
            suite.target.refused("ModelInfer", request, grpc.StatusCode.INVALID_ARGUMENT)


@model_check("shared-memory", "an input of another size than its shape is INVALID_ARGUMENT", _CODES)
def wrong_size(suite: Any, model: Model) -> None:
    with _registered(suite) as region:
        request = _through(model, model.arrays(), region)
        request.inputs[0].parameters["shared_memory_byte_size"].int64_param += 1
        suite.target.refused("ModelInfer", request, grpc.StatusCode.INVALID_ARGUMENT)


@server_check("shared-memory", "a key that does not exist, or leads elsewhere, is refused", _SOURCE)
def wrong_key(suite: Any) -> None:
    _needs(suite)
    with _object() as region:
        for key in ("/no-such-object", "/../../etc/hostname", ""):
            _is_refused(suite, _request(region, key=key))


@server_check("shared-memory", "a region larger than its object is refused", _SOURCE)
def too_large(suite: Any) -> None:
    _needs(suite)
    with _object() as region:
        _is_refused(suite, _request(region, byte_size=2 * _SIZE))
        _is_refused(suite, _request(region, offset=_SIZE))


@server_check("shared-memory", "a name can be registered once", _SOURCE)
def registered_twice(suite: Any) -> None:
    with _registered(suite) as region:
        _is_refused(suite, _request(region))


def _is_refused(suite: Any, request: pb.SystemSharedMemoryRegisterRequest) -> None:
    lost = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
    try:
        suite.target.call("SystemSharedMemoryRegister", request)
    except CallFailed as failed:
        expect(failed.code not in (*lost, grpc.StatusCode.UNAVAILABLE), "an error that says what is wrong", failed)
        return
    suite.target.call("SystemSharedMemoryUnregister", pb.SystemSharedMemoryUnregisterRequest(name=request.name))
    raise CheckFailed(f"expected a refusal, got OK to key {request.key!r}, {request.byte_size} at {request.offset}")

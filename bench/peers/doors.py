"""What peers of one protocol have in common: the body that asks for a row, and the class in an answer."""

from __future__ import annotations

import base64
import json
from abc import abstractmethod
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from bench.errors import PeerFailed
from bench.peers.base import Case, Door, Peer
from service.pb.inference import grpc_service_pb2 as pb


class OverGrpc(Peer):
    """The Open Inference Protocol."""

    door: Door = "grpc"
    path = "/inference.GRPCInferenceService/ModelInfer"
    content_type = "application/grpc"
    takes_encoded = False  # pictures as BYTES
    encoded_axes = 1  # of their shape: the batch, and whatever else the server wants

    def request(self, case: Case, row: np.ndarray) -> bytes:
        """Write a ModelInferRequest with raw contents.

        Raises:
            PeerFailed: The peer is not set up to decode pictures.
        """
        request = pb.ModelInferRequest(model_name=case.name)
        if case.encoded:
            if not self.takes_encoded:
                raise PeerFailed("it can be compared only with tensors")
            request.inputs.add(name=case.input, datatype="BYTES", shape=[1] * self.encoded_axes)
            request.raw_input_contents.append(len(row).to_bytes(4, "little") + row.tobytes())
            return request.SerializeToString()
        request.inputs.add(name=case.input, datatype=case.datatype, shape=[1, *row.shape])
        request.raw_input_contents.append(row.tobytes())
        return request.SerializeToString()

    def top_1(self, case: Case, answer: bytes) -> int:
        """Read a ModelInferResponse, raw or typed."""
        try:
            response = pb.ModelInferResponse.FromString(answer)
        except DecodeError:
            raise PeerFailed("its answer is not a ModelInferResponse") from None
        if len(response.outputs) != 1:
            raise PeerFailed(f"it answered with {len(response.outputs)} outputs, expected one")
        if response.raw_output_contents:
            return int(np.frombuffer(response.raw_output_contents[0], np.float32).argmax())
        typed = response.outputs[0].contents
        numbers = [*typed.fp32_contents, *typed.fp64_contents]
        return most_probable(np.array(numbers))


class OverHttp(Peer):
    """A POST of raw bytes, answered with raw float32: a server cannot read and write less."""

    door: Door = "http"
    path = "/"
    content_type = "application/octet-stream"

    def request(self, case: Case, row: np.ndarray) -> bytes:
        """Write the row's bytes."""
        return row.tobytes()

    def top_1(self, case: Case, answer: bytes) -> int:
        """Read K float32."""
        if not answer or len(answer) % 4:
            raise PeerFailed(f"it answered with {len(answer)} bytes, expected float32 numbers")
        return most_probable(np.frombuffer(answer, np.float32))


class OverJson(OverHttp):
    """A POST of JSON with the same bytes in base64, for peers that take nothing else."""

    content_type = "application/json"

    @abstractmethod
    def wrapped(self, encoded: str) -> Any:
        """Return what is sent, given the row in base64."""

    @abstractmethod
    def unwrapped(self, answer: Any) -> str:
        """Return the base64 in what came."""

    def request(self, case: Case, row: np.ndarray) -> bytes:
        """Write the JSON."""
        return json.dumps(self.wrapped(base64.b64encode(row.tobytes()).decode())).encode()

    def top_1(self, case: Case, answer: bytes) -> int:
        """Read the JSON."""
        try:
            raw = base64.b64decode(self.unwrapped(json.loads(answer)))
        except (ValueError, KeyError, IndexError, TypeError):
            raise PeerFailed(f"it answered {answer[:60]!r}, expected numbers in base64") from None
        return super().top_1(case, raw)


def most_probable(numbers: np.ndarray) -> int:
    """Return the place of the greatest number.

    Raises:
        PeerFailed: There is none.
    """
    if not numbers.size:
        raise PeerFailed("its answer holds no numbers")
    return int(numbers.argmax())

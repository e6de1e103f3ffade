from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.conformance.model import Model, learn
from bench.conformance.outcome import CheckFailed
from bench.conformance.tensors import Tensor
from bench.errors import OptionsInvalid
from bench.load.answers import Reference, encoded_requests, generated_requests, read_encoded
from service.pb.inference import grpc_service_pb2 as pb


def model(*inputs: Tensor, batched: bool = True) -> Model:
    return Model(
        name="m",
        versions=("1",),
        inputs=inputs,
        outputs=(Tensor("y", "FP32", (-1, 2)),),
        batched=batched,
        max_rows=8,
        limit_known=True,
        optional=frozenset(),
        mirrors={},
    )


PICTURES = model(Tensor("images", "UINT8", (-1, 28, 28, 1)))


def response(outputs: Mapping[str, np.ndarray], model_name: str = "m") -> bytes:
    made = pb.ModelInferResponse(model_name=model_name)
    for name, array in outputs.items():
        made.outputs.add(name=name, datatype="FP32", shape=array.shape)
        made.raw_output_contents.append(array.astype("<f4").tobytes())
    return made.SerializeToString()


def test_pictures_come_in_the_order_of_their_names(tmp_path: Path):
    for name in ("b.png", "a.jpg", ".hidden"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "folder").mkdir()
    one, other = tmp_path / "a.jpg", tmp_path / "b.png"
    assert [*read_encoded(tmp_path).items()] == [(str(one), b"a.jpg"), (str(other), b"b.png")]
    assert read_encoded(other) == {str(other): b"b.png"}


def test_sentences_are_the_lines_of_a_text(tmp_path: Path):
    (tmp_path / "questions.txt").write_text("who ?\n\n  what größer ?  \n")
    assert read_encoded(text := tmp_path / "questions.txt") == {
        f"{text}, sentence 1": b"who ?",
        f"{text}, sentence 2": "what größer ?".encode(),
    }


@pytest.mark.parametrize("name", ["absent", "empty.txt", "."])
def test_nothing_to_send_is_a_mistake(name: str, tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "empty.txt").touch()
    with pytest.raises(OptionsInvalid, match="--input"):
        read_encoded(tmp_path / name if name == "." else tmp_path / "sub" / name)


def test_encoded_rows_go_round():
    requests = [pb.ModelInferRequest.FromString(one) for one in encoded_requests(PICTURES, [b"a", b"bc"], 3, "7")]
    assert [request.inputs[0].name for request in requests] == ["images", "images"]
    assert [list(request.inputs[0].shape) for request in requests] == [[3], [3]]
    assert {(request.inputs[0].datatype, request.model_version) for request in requests} == {("BYTES", "7")}
    assert requests[1].raw_input_contents[0] == b"\x02\0\0\0bc\x01\0\0\0a\x02\0\0\0bc"


def test_a_model_of_bytes_keeps_its_shape():
    two_axes = model(Tensor("text", "BYTES", (-1, 1)))
    (request,) = encoded_requests(two_axes, [b"a"], 1, "")
    assert list(pb.ModelInferRequest.FromString(request).inputs[0].shape) == [1, 1]


def test_several_inputs_cannot_be_encoded():
    with pytest.raises(OptionsInvalid, match="'m' has a, b: leave it out"):
        encoded_requests(model(Tensor("a", "FP32", (-1,)), Tensor("b", "FP32", (-1,))), [b"x"], 1, "")


def test_requests_are_made_up_each_different():
    requests = generated_requests(PICTURES, 4, 2, "")
    assert len(set(requests)) == 4
    assert requests == generated_requests(PICTURES, 4, 2, "")
    assert list(pb.ModelInferRequest.FromString(requests[0]).inputs[0].shape) == [2, 28, 28, 1]


def test_free_axes_are_as_long_as_asked_for():
    sentences = dataclasses.replace(model(Tensor("ids", "INT64", (-1, -1))), free_axis=64)
    (request,) = generated_requests(sentences, 1, 2, "")
    assert list(pb.ModelInferRequest.FromString(request).inputs[0].shape) == [2, 64]


def test_more_than_memory_holds_is_not_made_up():
    sentences = dataclasses.replace(model(Tensor("ids", "INT64", (-1, -1))), free_axis=100_000_000)
    with pytest.raises(OptionsInvalid, match="--distinct 16 requests of 800,000,000 bytes are more than"):
        generated_requests(sentences, 16, 1, "")


def test_a_model_that_names_no_tensors_is_told_on_one_line():
    metadata = pb.ModelMetadataResponse(name="m", versions=["1"], platform="none")
    target: Any = SimpleNamespace(call=lambda *_: metadata)
    with pytest.raises(CheckFailed, match="ModelMetadata of 'm': expected inputs and outputs, got name: ") as failed:
        learn(target, "m", {})
    assert "\n" not in str(failed.value)


def test_what_differs_from_the_reference():
    right = response({"y": np.array([[0.25, 0.75]])})
    reference = Reference((right, response({"y": np.array([[1.0, 0.0]])})))
    assert not reference.differs(0, right)
    assert not reference.differs(0, response({"y": np.array([[0.25 + 1e-7, 0.75]])}))
    assert not reference.differs(0, response({"y": np.array([[0.25, 0.75]])}, model_name="other"))
    assert reference.differs(1, right)
    assert reference.differs(0, response({"y": np.array([[0.26, 0.74]])}))
    assert reference.differs(0, response({"z": np.array([[0.25, 0.75]])}))
    assert reference.differs(0, response({"y": np.array([[0.25, 0.75]] * 2)}))
    assert reference.differs(0, b"")
    assert reference.differs(0, b"\xff")

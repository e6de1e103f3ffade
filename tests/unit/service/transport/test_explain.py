from __future__ import annotations

import numpy as np
import pytest

from service.batching.keeping import cached_facts
from service.batching.request import BatchFacts, PendingRequest
from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import grpc_service_pb2 as inference
from service.transport.explain import as_parameters, fill
from tests.fakes import RecordingReply
from tests.unit.service.samples import make_servable

FACTS = BatchFacts(
    rows=3,
    bucket=4,
    padding_ratio=0.25,
    instance=1,
    release_reason="full",
    released=100.5,
    assemble_seconds=0.001,
    infer_seconds=0.002,
    lone=True,
)
REQUEST = PendingRequest([np.zeros((3, 2))], None, float("inf"), 100.0, RecordingReply(), queued=100.125)
EXPECTED = {
    "queue_seconds": 0.375,
    "decode_seconds": 0.125,
    "assemble_seconds": 0.001,
    "infer_seconds": 0.002,
    "batch_size": 3,
    "bucket": 4,
    "padding_ratio": 0.25,
    "instance": "1",
    "execution_provider": "CPUExecutionProvider",
    "device": "cpu",
    "model_digest": "sha256:00",
    "release_reason": "full",
    "lone": True,
}


def test_an_explanation_tells_where_the_time_went_and_what_ran() -> None:
    message = classification.Explanation()
    fill(message, make_servable(), REQUEST, FACTS)
    assert {field.name: value for field, value in message.ListFields()} == EXPECTED


def test_no_field_of_the_message_is_left_out() -> None:
    assert {field.name for field in classification.Explanation.DESCRIPTOR.fields} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_same_facts_travel_as_parameters(name: str) -> None:
    response = inference.ModelInferResponse.FromString(as_parameters(make_servable(), REQUEST, FACTS))
    assert set(response.parameters) == set(EXPECTED)
    parameter = response.parameters[name]
    choice = parameter.WhichOneof("parameter_choice")
    assert choice is not None
    assert getattr(parameter, choice) == EXPECTED[name]
    choices = {str: "string_param", bool: "bool_param", int: "int64_param", float: "double_param"}
    assert choices[type(EXPECTED[name])] == choice
    response.ClearField("parameters")
    assert response == inference.ModelInferResponse()


def test_an_answer_from_the_cache_waited_in_no_queue() -> None:
    explanation = classification.Explanation()
    fill(explanation, make_servable(), REQUEST, cached_facts(3, 100.5))
    assert (explanation.queue_seconds, explanation.infer_seconds, explanation.instance) == (0.0, 0.0, "")
    assert explanation.release_reason == "cached"

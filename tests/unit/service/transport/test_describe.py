from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from service import __version__
from service.backend.base import Provider
from service.manifest import Quantization
from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import model_config_pb2 as config
from service.repository.lifecycle import VersionStatus
from service.tensors import DTYPES, TensorSpec
from service.transport.describe import (
    describe_model,
    describe_status,
    extensions,
    model_config,
    model_metadata,
    model_statistics,
    properties,
    server_metadata,
    shape_on_wire,
)
from tests.unit.service.samples import LABELS, bare_servable, make_servable, manifest, text_manifest, tokenizer

FIXED = {
    "inputs": (TensorSpec("x", "FP32", (-1, 2, 3)),),
    "outputs": (TensorSpec("y", "FP32", (-1, 2, 3)),),
    "batched": False,
    "max_batch_size": 1,
}


def test_the_server_says_who_it_is() -> None:
    message = server_metadata(extensions(may_load=False))
    assert (message.name, message.version) == ("convserve", __version__)
    assert {"classification", "model_configuration", "statistics", "binary_tensor_data"} <= set(message.extensions)


def test_loading_by_call_is_an_extension_where_it_is_allowed() -> None:
    assert "model_repository" not in extensions(may_load=False)
    assert "model_repository" in extensions(may_load=True)


def test_shapes_are_shown_as_callers_send_them() -> None:
    spec = TensorSpec("x", "FP32", (-1, 2, 3))
    assert shape_on_wire(spec, batched=True) == (-1, 2, 3)
    assert shape_on_wire(spec, batched=False) == (2, 3)


def test_metadata_name_tensors_versions_and_properties() -> None:
    servable = make_servable(version=3)
    message = model_metadata(servable, [servable, make_servable(version=1)])
    assert (message.name, list(message.versions), message.platform) == ("pictures", ["3", "1"], "onnxruntime_onnx")
    (images,), (probabilities,) = message.inputs, message.outputs
    assert (images.name, images.datatype, list(images.shape)) == ("images", "UINT8", [-1, 2, 3, 1])
    assert (probabilities.name, probabilities.datatype, list(probabilities.shape)) == ("probabilities", "FP32", [-1, 3])
    assert dict(message.properties) == properties(servable)


def test_metadata_of_an_unbatched_graph_have_no_batch_axis() -> None:
    message = model_metadata(bare_servable(**FIXED), [])
    assert list(message.inputs[0].shape) == [2, 3]
    assert list(message.outputs[0].shape) == [2, 3]


def test_properties_tell_what_runs_and_how_good_it_is() -> None:
    servable = make_servable(provider=Provider("cuda", "CUDAExecutionProvider", "cuda:0"))
    assert properties(servable) == {
        "task": "image-classification",
        "verified": "true",
        "execution_provider_requested": "cuda",
        "execution_provider_actual": "CUDAExecutionProvider",
        "device": "cuda:0",
        "model_digest": "sha256:00",
        "golden_check_max_abs_error": "2.5e-07",
        "accuracy.top1": "0.7500",
        "accuracy.top1.dataset": "toy/test (8)",
    }


def test_a_bare_graph_claims_nothing() -> None:
    facts = properties(bare_servable())
    assert facts["verified"] == "false"
    assert not any(key.startswith(("accuracy", "golden")) for key in facts)


def test_the_configuration_of_a_picture_model() -> None:
    message = model_config(make_servable())
    assert (message.name, message.platform, message.backend) == ("pictures", "onnxruntime_onnx", "onnxruntime")
    assert (message.max_batch_size, message.default_model_filename) == (4, "model.onnx")
    (images,) = message.input
    assert images.format == config.ModelInput.FORMAT_NHWC
    assert (images.data_type, list(images.dims)) == (config.TYPE_UINT8, [2, 3, 1])
    (probabilities,) = message.output
    assert (images.name, probabilities.name) == ("images", "probabilities")
    assert (probabilities.data_type, list(probabilities.dims)) == (config.TYPE_FP32, [3])
    assert probabilities.label_filename == "labels.txt"
    assert message.dynamic_batching.max_queue_delay_microseconds == 250_000
    assert message.dynamic_batching.priority_levels == 3
    assert message.dynamic_batching.default_priority_level == 2
    assert not message.response_cache.enable
    (group,) = message.instance_group
    assert (group.name, group.count, group.kind) == ("pictures", 2, config.ModelInstanceGroup.KIND_CPU)
    assert message.parameters["verified"].string_value == "true"


def test_the_configuration_of_sentences_has_no_picture_format(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    message = model_config(make_servable(text_manifest(), version_dir=tmp_path))
    assert message.input[0].format == config.ModelInput.FORMAT_NONE
    assert list(message.input[0].dims) == [-1]


def test_the_configuration_of_an_unbatched_graph() -> None:
    message = model_config(bare_servable(**FIXED, provider=Provider("auto", "CUDAExecutionProvider", "cuda:0")))
    assert message.max_batch_size == 0
    assert not message.HasField("dynamic_batching")
    assert list(message.input[0].dims) == [2, 3]
    assert message.input[0].format == config.ModelInput.FORMAT_NONE
    assert message.output[0].label_filename == ""
    assert message.instance_group[0].kind == config.ModelInstanceGroup.KIND_GPU


@pytest.mark.parametrize("datatype", DTYPES)
def test_every_datatype_has_its_number(datatype: str) -> None:
    tensor = (TensorSpec("x", datatype, (-1,)),)
    message = model_config(bare_servable(inputs=tensor, outputs=tensor))
    name = config.DataType.Name(message.input[0].data_type)
    assert name == ("TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}")
    assert message.output[0].data_type == message.input[0].data_type


def test_statistics_are_those_of_the_version() -> None:
    servable = make_servable()
    for seconds in (0.5, 1.0):
        servable.metrics.observe_success(seconds)
    servable.metrics.observe_failure(0.25, "QUEUE_FULL")
    servable.metrics.observe_batch([0.1, 0.2], rows=3, padding=0, assemble=0.01, infer=0.02, reason="idle")
    servable.metrics.observe_batch([0.0], rows=1, padding=0, assemble=0.03, infer=0.04, reason="idle")
    servable.metrics.observe_postprocess(2, 3, 0.005)
    servable.metrics.observe_postprocess(1, 1, 0.001)
    message = model_statistics(servable)
    assert (message.name, message.version, message.last_inference) == ("pictures", "1", 1234)
    assert (message.inference_count, message.execution_count) == (4, 2)
    stats = message.inference_stats
    assert (stats.success.count, stats.success.ns) == (2, 1_500_000_000)
    assert (stats.fail.count, stats.fail.ns) == (1, 250_000_000)
    assert stats.queue.count == 3
    assert (stats.compute_infer.count, stats.compute_infer.ns) == (3, 80_000_000)
    assert (stats.compute_output.count, stats.compute_output.ns) == (3, 11_000_000)
    assert [(batch.batch_size, batch.compute_infer.ns, batch.compute_output.ns) for batch in message.batch_stats] == [
        (1, 40_000_000, 1_000_000),
        (3, 20_000_000, 5_000_000),
    ]


def test_a_version_describes_itself_in_full() -> None:
    source = manifest()
    message = describe_model(make_servable(source))
    assert (message.model_name, message.model_version, message.task) == ("pictures", "1", "image-classification")
    assert message.state == classification.MODEL_STATE_READY
    assert list(message.labels) == list(LABELS)
    assert (message.max_batch_size, message.verified, message.model_digest) == (4, True, "sha256:00")
    assert (message.requested_execution_provider, message.actual_execution_provider, message.device) == (
        "auto", "CPUExecutionProvider", "cpu",
    )  # fmt: skip
    assert (message.golden_check.passed, message.golden_check.max_abs_error) == (True, 2.5e-7)
    assert source.preprocessing is not None
    stated = json.loads(message.preprocessing_json)
    assert stated == json.loads(json.dumps(dataclasses.asdict(source.preprocessing)))
    (accuracy,) = message.accuracies
    assert {field.name: value for field, value in accuracy.ListFields()} == dataclasses.asdict(source.accuracy[0])
    assert (message.parity.tolerance, message.parity.count, message.parity.top1_agreement) == (1e-5, 8, 1.0)
    assert message.parity.max_abs_difference == 1e-7
    provenance = message.provenance
    assert (provenance.architecture, provenance.recipe, provenance.git_commit) == ("sums", "none", "abc")
    assert (provenance.dataset, provenance.dataset_digest, provenance.seed) == ("toy", "sha256:00", 7)
    assert provenance.create_time.ToJsonString() == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (VersionStatus("pictures", 2, "LOADING"), ""),
        (VersionStatus("pictures", 2, "UNLOADING"), ""),
        (
            VersionStatus("pictures", 2, "UNAVAILABLE", "/a/path: damaged", "its model file is damaged"),
            "its model file is damaged",
        ),
    ],
)
def test_of_a_version_that_is_not_ready_state_and_reason_are_told(status: VersionStatus, reason: str) -> None:
    message = describe_status(status)
    assert classification.ModelState.Name(message.state) == f"MODEL_STATE_{status.state}"
    assert (message.model_name, message.model_version, message.state_reason) == ("pictures", "2", reason)
    assert not message.verified


@pytest.mark.parametrize(
    "created", ["2026-01-02T04:04:05+01:00", "2026-01-02T03:04:05.000000+00:00", "20260102T030405Z"]
)
def test_every_instant_that_a_manifest_may_hold_is_told(created: str) -> None:
    source = manifest(provenance=dataclasses.replace(manifest().provenance, created=created, seed=None))
    message = describe_model(make_servable(source)).provenance
    assert message.create_time.ToJsonString() == "2026-01-02T03:04:05Z"
    assert message.seed == 0


def test_a_bare_graph_describes_its_tensors_only() -> None:
    message = describe_model(bare_servable(**FIXED))
    assert (message.task, message.verified, message.max_batch_size) == ("tensor", False, 0)
    tensors = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in (*message.inputs, *message.outputs)]
    assert tensors == [("x", "FP32", [2, 3]), ("y", "FP32", [2, 3])]
    for field in ("golden_check", "parity", "provenance"):
        assert not message.HasField(field)
    assert message.preprocessing_json == ""


def test_a_published_tensor_model_has_no_preprocessing() -> None:
    source = manifest(task="tensor", preprocessing=None, labels_file=None)
    message = describe_model(make_servable(source, labels=()))
    assert message.preprocessing_json == ""
    assert message.HasField("provenance")


def test_encoded_items_are_advertised_where_the_operator_wants_it() -> None:
    servable = make_servable(advertises_items=True)
    (metadata,) = model_metadata(servable, [servable]).inputs
    assert (metadata.name, metadata.datatype, list(metadata.shape)) == ("images", "BYTES", [-1, 1])
    (configured,) = model_config(servable).input
    assert configured.data_type == config.TYPE_STRING
    assert (list(configured.dims), configured.format) == ([1], config.ModelInput.FORMAT_NONE)


def test_a_quantised_version_tells_what_it_cost() -> None:
    plain = describe_model(make_servable(manifest()))
    assert not plain.HasField("quantization")
    cost = Quantization("int8-static", "sha256:01", 512, ("conv_1",), 0.76, 0.01, 0.98, {"1": 2.0}, 1000, "a processor")
    servable = make_servable(manifest(quantization=cost))
    told = describe_model(servable).quantization
    assert (told.method, told.source_digest, list(told.excluded_nodes)) == ("int8-static", "sha256:01", ["conv_1"])
    assert (told.accuracy_before, told.accuracy_loss, told.top1_agreement) == (0.76, 0.01, 0.98)
    assert (dict(told.speedup), told.machine) == ({"1": 2.0}, "a processor")
    facts = properties(servable)
    assert (facts["quantization"], facts["quantization.accuracy_loss"]) == ("int8-static", "0.0100")

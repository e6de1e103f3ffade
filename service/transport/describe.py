"""What the server and its models say of themselves, as protocol messages. No state, no I/O."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime

from service import __version__
from service.model_metrics import Duration, Statistics
from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import grpc_service_pb2 as inference
from service.pb.inference import model_config_pb2 as config
from service.repository.lifecycle import VersionStatus
from service.repository.servable import Servable
from service.spec import ImageSpec
from service.tensors import AnyRank, TensorSpec

# Only what works; clients such as perf_analyzer act on it.
_EXTENSIONS = (
    "classification",
    "model_configuration",
    "statistics",
    "binary_tensor_data",
    "parameters",
    "schedule_policy",
    "system_shared_memory",
    "logging",
)
_WHEN_LOADING_BY_CALL = ("model_repository", "model_repository(unload_dependents)")
PLATFORM = "onnxruntime_onnx"  # Triton's name for ONNX graphs, which clients know


def extensions(*, may_load: bool) -> tuple[str, ...]:
    """Return the protocol's extensions that work, ``may_load`` telling whether callers may load models."""
    return _EXTENSIONS + (_WHEN_LOADING_BY_CALL if may_load else ())


def server_metadata(extensions: Sequence[str]) -> inference.ServerMetadataResponse:
    """Name, version and extensions of this server."""
    return inference.ServerMetadataResponse(name="convserve", version=__version__, extensions=extensions)


def shape_on_wire(spec: TensorSpec, batched: bool) -> tuple[int, ...]:
    """Return a tensor's shape as callers send it; of one of any rank [-1], as the protocol has no word for that."""
    if isinstance(spec, AnyRank):
        return (-1,)
    return spec.shape if batched else spec.shape[1:]


def model_metadata(servable: Servable, versions: Sequence[Servable]) -> inference.ModelMetadataResponse:
    """Return a model's tensors, versions and properties; optional inputs come last, without a batch axis.

    A model of pictures is shown with its tensor, UINT8 (N, H, W, C), or, if the operator wants it so,
    with encoded items, BYTES (N, 1). It takes both.
    """
    response = inference.ModelMetadataResponse(
        name=servable.name, versions=[str(version.version) for version in versions], platform=PLATFORM
    )
    for specs, field in ((_advertised_inputs(servable), response.inputs), (servable.outputs, response.outputs)):
        for spec in specs:
            field.add(name=spec.name, datatype=spec.datatype, shape=shape_on_wire(spec, servable.batched))
    for spec in servable.optional_inputs:
        response.inputs.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
    for key, value in properties(servable).items():
        response.properties[key] = value
    return response


def _advertised_inputs(servable: Servable) -> Sequence[TensorSpec]:
    if not servable.advertises_items:
        return servable.inputs
    return [TensorSpec(servable.inputs[0].name, "BYTES", (-1, 1))]


def properties(servable: Servable) -> dict[str, str]:
    """Return the facts that the protocol has no field for: the real provider, digest, proof and accuracy."""
    facts = {
        "task": servable.task,
        "verified": "true" if servable.verified else "false",
        "execution_provider_requested": servable.provider.requested,
        "execution_provider_actual": servable.provider.actual,
        "device": servable.provider.device,
        "model_digest": servable.digest,
    }
    if servable.golden is not None:
        facts["golden_check_max_abs_error"] = f"{servable.golden.max_abs_error:.3g}"
    for accuracy in servable.manifest.accuracy if servable.manifest else ():
        facts[f"accuracy.{accuracy.metric}"] = f"{accuracy.value:.4f}"
        facts[f"accuracy.{accuracy.metric}.dataset"] = f"{accuracy.dataset}/{accuracy.split} ({accuracy.count})"
    quantization = servable.manifest.quantization if servable.manifest else None
    if quantization is not None:
        facts["quantization"] = quantization.method
        facts["quantization.accuracy_loss"] = f"{quantization.accuracy_loss:.4f}"
    return facts


def model_config(servable: Servable) -> config.ModelConfig:
    """Return the model's configuration as Triton's clients read it.

    ``max_batch_size`` is 0 for a graph without a batch axis; ``dims`` leave the batch axis out.
    """
    result = config.ModelConfig(
        name=servable.name,
        platform=PLATFORM,
        backend="onnxruntime",
        max_batch_size=servable.max_batch_size if servable.batched else 0,
        default_model_filename="model.onnx",
    )
    # image_client asks for the format before it sends a picture.
    is_picture = _is_picture(servable) and not servable.advertises_items
    for spec in _advertised_inputs(servable):
        result.input.add(
            name=spec.name,
            data_type=_data_type(spec),
            dims=shape_on_wire(spec, batched=False),
            format=config.ModelInput.FORMAT_NHWC if is_picture else config.ModelInput.FORMAT_NONE,
        )
    for spec in servable.optional_inputs:
        result.input.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape, optional=True)
    labels_file = servable.manifest.labels_file if servable.manifest else None
    for spec in servable.outputs:
        dims = shape_on_wire(spec, batched=False)
        result.output.add(name=spec.name, data_type=_data_type(spec), dims=dims, label_filename=labels_file or "")
    if servable.batched:
        delay_microseconds = int(servable.batcher.policy.max_queue_delay_seconds * 1e6)
        result.dynamic_batching.max_queue_delay_microseconds = delay_microseconds
        result.dynamic_batching.priority_levels = servable.priorities.levels
        result.dynamic_batching.default_priority_level = servable.priorities.default_level
    result.response_cache.enable = servable.shared is not None and servable.shared.cache is not None
    result.instance_group.add(
        name=servable.name,
        count=servable.batcher.instances,
        kind=config.ModelInstanceGroup.KIND_GPU
        if servable.provider.device.startswith("cuda")
        else config.ModelInstanceGroup.KIND_CPU,
    )
    for key, value in properties(servable).items():
        result.parameters[key].string_value = value
    return result


def _data_type(spec: TensorSpec) -> config.DataType:
    name = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    number: config.DataType = getattr(config, name)
    return number


def _is_picture(servable: Servable) -> bool:
    return servable.preparer is not None and isinstance(servable.preparer.spec, ImageSpec)


def model_statistics(servable: Servable) -> inference.ModelStatistics:
    """Return the counts and durations since the version was loaded."""
    stats: Statistics = servable.metrics.snapshot()
    message = inference.ModelStatistics(
        name=servable.name,
        version=str(servable.version),
        last_inference=stats.last_inference_ms,
        inference_count=stats.inference_count,
        execution_count=stats.execution_count,
    )
    for name in (
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"
    ):  # fmt: skip
        _fill(getattr(message.inference_stats, name), getattr(stats, name))
    for size, durations in sorted(stats.by_batch_size.items()):
        batch = message.batch_stats.add(batch_size=size)
        for name in ("compute_input", "compute_infer", "compute_output"):
            _fill(getattr(batch, name), getattr(durations, name))
    return message


def _fill(message: inference.StatisticDuration, duration: Duration) -> None:
    message.count, message.ns = duration.count, duration.ns


def describe_status(status: VersionStatus) -> classification.DescribeModelResponse:
    """Describe a version that is not READY: its state and, in words for callers, the reason."""
    return classification.DescribeModelResponse(
        model_name=status.name,
        model_version=str(status.version),
        state=f"MODEL_STATE_{status.state}",
        state_reason=status.hint if status.state == "UNAVAILABLE" else "",
    )


def describe_model(servable: Servable) -> classification.DescribeModelResponse:
    """Return everything that a version says of itself, for DescribeModel."""
    response = classification.DescribeModelResponse(
        model_name=servable.name,
        model_version=str(servable.version),
        task=servable.task,
        state=classification.MODEL_STATE_READY,
        labels=servable.labels,
        max_batch_size=servable.max_batch_size if servable.batched else 0,
        requested_execution_provider=servable.provider.requested,
        actual_execution_provider=servable.provider.actual,
        device=servable.provider.device,
        model_digest=servable.digest,
        verified=servable.verified,
    )
    for specs, field in ((servable.inputs, response.inputs), (servable.outputs, response.outputs)):
        for spec in specs:
            field.add(name=spec.name, datatype=spec.datatype, shape=shape_on_wire(spec, servable.batched))
    if servable.golden is not None:
        response.golden_check.passed = True
        response.golden_check.max_abs_error = servable.golden.max_abs_error
    manifest = servable.manifest
    if manifest is None:
        return response
    if manifest.preprocessing is not None:
        response.preprocessing_json = json.dumps(dataclasses.asdict(manifest.preprocessing))
    for accuracy in manifest.accuracy:
        response.accuracies.add(**dataclasses.asdict(accuracy))
    parity = manifest.parity
    response.parity.tolerance = parity.tolerance
    response.parity.max_abs_difference = parity.max_abs_difference
    response.parity.top1_agreement = parity.top1_agreement
    response.parity.count = parity.count
    if manifest.quantization is not None:
        facts = dataclasses.asdict(manifest.quantization)
        for name in ("calibration_count", "bytes_before"):
            del facts[name]
        response.quantization.MergeFrom(classification.Quantization(**facts))
    _fill_provenance(response.provenance, servable)
    return response


def _fill_provenance(message: classification.Provenance, servable: Servable) -> None:
    assert servable.manifest is not None
    provenance = servable.manifest.provenance
    message.architecture = provenance.architecture
    message.recipe = provenance.recipe
    message.dataset = provenance.dataset.name
    message.dataset_digest = provenance.dataset.digest
    if provenance.seed is not None:
        message.seed = provenance.seed
    message.git_commit = provenance.git_commit
    message.create_time.FromDatetime(datetime.fromisoformat(provenance.created))

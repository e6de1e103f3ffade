"""The planted faults, by section: each is something that a server in the field has done or could do."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2

from service.pb.inference import grpc_service_pb2 as pb
from tests.conformance.planting import (
    INFER,
    INTERNAL,
    INVALID,
    answer,
    ask,
    at_the_end,
    delayed_by_one,
    each_statistics,
    empty_fails,
    ended_by_errors,
    forgive,
    frozen,
    numbered_ids,
    recode,
    reflected,
    refuse,
    streamed,
    watch,
)
from tests.conformance.proxy import Fault
from tests.conformance.spoiling import (
    always,
    any_parameter,
    assign,
    classes_of,
    dims_with_batch,
    drop_request_fields,
    first_input_at_nought,
    has_unknown_fields,
    hide_services,
    in_seconds,
    inputs_by_place,
    lose_typed_precision,
    no_batches,
    no_classes,
    no_outputs_chosen,
    no_version,
    not_ready,
    one_missing,
    one_row_more,
    only_one_class,
    other_datatype,
    outputs_of,
    renumber,
    sort_outputs,
    swap_raw,
    twice_the_rows,
    untyped,
    without_id,
    zero_size,
)

ANSWERED = pb.ModelInferResponse()

FAULTS: dict[str, dict[str, Fault]] = {
    "health": {
        "not live": answer("ServerLive", assign("live", False)),
        "not ready": answer("ServerReady", assign("ready", False)),
        "an unknown model is ready": forgive("ModelReady", pb.ModelReadyResponse(ready=True)),
        "Check knows everybody": forgive("Check", health_pb2.HealthCheckResponse(status=1).SerializeToString()),
        "Watch never tells": watch(stays_open=True),
        "Watch ends": watch(1, stays_open=False),
        "a model never ready": answer("ModelReady", assign("ready", False)),
        "Check knows nobody": Fault("Check", lambda *_: health_pb2.HealthCheckResponse(status=2).SerializeToString()),
    },
    "metadata": {
        "no name": answer("ServerMetadata", assign("name", "")),
        "another model's name": answer("ModelMetadata", assign("name", "another")),
        "another datatype": answer("ModelMetadata", other_datatype),
        "a size of nought": answer("ModelMetadata", zero_size),
        "an unknown model is described": forgive("ModelMetadata", pb.ModelMetadataResponse(name="x")),
    },
    "config": {
        "dims with the batch": answer("ModelConfig", dims_with_batch),
        "a row too many": answer("ModelConfig", one_row_more),
        "an unknown model has one": forgive("ModelConfig", pb.ModelConfigResponse()),
    },
    "statistics": {
        "frozen": frozen("ModelStatistics"),
        "rows counted twice": each_statistics(twice_the_rows),
        "no batch_stats": each_statistics(no_batches),
        "seconds for milliseconds": each_statistics(in_seconds),
    },
    "contents": {
        "a bit flipped": answer(INFER, outputs_of("INT64", lambda raw: bytes([raw[0] ^ 1]) + raw[1:])),
        "typed integers halved": ask(INFER, lose_typed_precision),
        "a byte lost": answer(INFER, outputs_of("FP32", lambda raw: raw[:-1])),
        "rows reversed": answer(INFER, outputs_of("INT8", lambda raw: raw[::-1])),
    },
    "bytes": {
        "empty elements filled": answer(INFER, outputs_of("BYTES", lambda raw: raw.replace(b"\0\0\0\0", b"\1\0\0\0 "))),
        "damaged frames taken": forgive(INFER, ANSWERED),
        "damaged frames are INTERNAL": recode(INFER, INVALID, INTERNAL),
    },
    "raw-only": {
        "FP16 zeroed": answer(INFER, outputs_of("FP16", lambda raw: bytes(len(raw)))),
        "typed FP16 taken": forgive(INFER, ANSWERED),
    },
    "input-order": {
        "inputs taken by place": ask(INFER, inputs_by_place),
        "raw contents swapped": answer(INFER, swap_raw),
    },
    "outputs": {
        "the choice ignored": ask(INFER, no_outputs_chosen),
        "the order ignored": answer(INFER, sort_outputs),
        "one missing": answer(INFER, one_missing),
    },
    "ids": {
        "no id": answer(INFER, assign("id", "")),
        "an id of the server's": numbered_ids(),
        "another caller's outputs": delayed_by_one(),
    },
    "versions": {
        "ignored": ask(INFER, no_version),
        "not told": answer(INFER, assign("model_version", "")),
        "every version ready": forgive("ModelReady", pb.ModelReadyResponse(ready=True)),
        "no number is INTERNAL": recode(INFER, INVALID, INTERNAL),
        "every version described": forgive("ModelMetadata", pb.ModelMetadataResponse()),
    },
    "parameters": {
        "unknown ones refused": refuse(INFER, any_parameter, INVALID),
        "one without a type": answer(INFER, untyped),
        "a timeout of text taken": forgive(INFER, ANSWERED),
        "those of tensors refused": refuse(INFER, lambda request: request.inputs[0].parameters, INVALID),
        "priority refused": refuse(INFER, lambda request: "priority" in request.parameters, INVALID),
    },
    "classification": {
        "worst first": answer(INFER, classes_of(lambda elements: elements[::-1])),
        "without an index": answer(INFER, classes_of(lambda elements: [e.split(b":")[0] for e in elements])),
        "one class whatever is asked": ask(INFER, only_one_class),
        "none at all taken": forgive(INFER, ANSWERED),
        "an output missing": answer(INFER, one_missing),
    },
    "errors": {
        "INTERNAL for INVALID_ARGUMENT": recode(INFER, INVALID, INTERNAL),
        "an unknown model is INVALID_ARGUMENT": recode(INFER, grpc.StatusCode.NOT_FOUND, INVALID),
        "everything taken": forgive(INFER, ANSWERED),
        "never recovers": refuse(INFER, always, INTERNAL),
    },
    "unknown-fields": {
        "refused": refuse(INFER, has_unknown_fields, INVALID),
        "refused in metadata": refuse("ModelMetadata", has_unknown_fields, INVALID),
    },
    "cancellation": {
        "who stays is harmed": refuse(INFER, lambda request: request.id.isdigit() and int(request.id) % 2, INTERNAL),
        "everybody is harmed": refuse(INFER, always, INTERNAL),
    },
    "deadlines": {
        "a short timeout is INTERNAL": refuse(INFER, lambda r: 0 < r.parameters["timeout"].int64_param < 9, INTERNAL),
        "all calls are INTERNAL": refuse(INFER, always, INTERNAL),
    },
    "large-messages": {
        "refused": refuse(INFER, lambda request: request.ByteSize() > 2**22, INTERNAL),
        "an answer cut off": answer(INFER, outputs_of("BYTES", lambda raw: raw[: 2**20])),
    },
    "concurrency": {
        "answers mixed": delayed_by_one(),
        "some fail": refuse(INFER, lambda request: request.id.endswith("99"), INTERNAL),
    },
    "stream": {
        "an error ends it": ended_by_errors(),
        "no ids": streamed(without_id),
        "an answer lost": streamed(lambda message: message.infer_response.id != "s-7"),
        "answers only at the end": at_the_end(),
        "one without requests fails": empty_fails(),
    },
    "repository": {
        "nothing in the index": answer("RepositoryIndex", lambda response: response.models.clear()),
        "still loading": answer("RepositoryIndex", not_ready),
        "any name loaded": forgive("RepositoryModelLoad", pb.RepositoryModelLoadResponse()),
        "unloading does nothing": Fault("RepositoryModelUnload", lambda *_: pb.RepositoryModelUnloadResponse()),
    },
    "shared-memory": {
        "no region listed": answer("SystemSharedMemoryStatus", lambda response: response.regions.clear()),
        "offsets ignored": ask(INFER, first_input_at_nought),
        "anything registered": forgive("SystemSharedMemoryRegister", pb.SystemSharedMemoryRegisterResponse()),
        "beyond the end taken": forgive(INFER, ANSWERED),
    },
    "log-settings": {
        "frozen": frozen("LogSettings"),
        "nonsense taken": forgive("LogSettings", pb.LogSettingsResponse()),
        "one without a value": answer("LogSettings", lambda response: response.settings["planted"].Clear()),
        "anything kept": answer("LogSettings", lambda response: response.settings["no_such_setting"].Clear()),
    },
    "extensions": {
        "one too many": answer("ServerMetadata", lambda response: response.extensions.append("trace")),
        "one kept quiet": answer("ServerMetadata", lambda response: response.extensions.remove("statistics")),
        "one that does not work": refuse("ModelConfig", lambda _: True, grpc.StatusCode.UNIMPLEMENTED),
        "all kept quiet": answer("ServerMetadata", lambda response: response.extensions.clear()),
        "CUDA too many": answer("ServerMetadata", lambda response: response.extensions.append("cuda_shared_memory")),
        "no classes given": ask(INFER, no_classes),
        "no raw contents": answer(INFER, lambda response: response.raw_output_contents.clear()),
        "any method answered": Fault("NoSuchMethod", lambda *_: b""),
    },
    "reflection": {
        "numbers swapped": reflected(renumber),
        "a field missing": reflected(drop_request_fields),
        "the service hidden": reflected(hide_services),
    },
}  # fmt: skip

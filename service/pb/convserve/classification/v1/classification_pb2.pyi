import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_UNLOADING: _ClassVar[ModelState]
    MODEL_STATE_UNAVAILABLE: _ClassVar[ModelState]
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_UNLOADING: ModelState
MODEL_STATE_UNAVAILABLE: ModelState

class ClassifyImagesRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "images", "top_k", "request_id", "explain")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    images: _containers.RepeatedScalarFieldContainer[bytes]
    top_k: int
    request_id: str
    explain: bool
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., images: _Optional[_Iterable[bytes]] = ..., top_k: _Optional[int] = ..., request_id: _Optional[str] = ..., explain: bool = ...) -> None: ...

class ClassifyImagesResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "results", "request_id", "explanation")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    results: _containers.RepeatedCompositeFieldContainer[ClassificationResult]
    request_id: str
    explanation: Explanation
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., results: _Optional[_Iterable[_Union[ClassificationResult, _Mapping]]] = ..., request_id: _Optional[str] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ...) -> None: ...

class ClassifySentencesRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "sentences", "top_k", "request_id", "explain")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SENTENCES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    sentences: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    request_id: str
    explain: bool
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., sentences: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., request_id: _Optional[str] = ..., explain: bool = ...) -> None: ...

class ClassifySentencesResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "results", "request_id", "explanation")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    results: _containers.RepeatedCompositeFieldContainer[ClassificationResult]
    request_id: str
    explanation: Explanation
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., results: _Optional[_Iterable[_Union[ClassificationResult, _Mapping]]] = ..., request_id: _Optional[str] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("model_name", "model_version")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ...) -> None: ...

class DescribeModelResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "task", "state", "state_reason", "labels", "inputs", "outputs", "max_batch_size", "requested_execution_provider", "actual_execution_provider", "device", "model_digest", "verified", "accuracies", "parity", "golden_check", "provenance", "preprocessing_json", "quantization")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_EXECUTION_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    ACTUAL_EXECUTION_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    ACCURACIES_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_CHECK_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    PREPROCESSING_JSON_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: str
    task: str
    state: ModelState
    state_reason: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    inputs: _containers.RepeatedCompositeFieldContainer[TensorDescription]
    outputs: _containers.RepeatedCompositeFieldContainer[TensorDescription]
    max_batch_size: int
    requested_execution_provider: str
    actual_execution_provider: str
    device: str
    model_digest: str
    verified: bool
    accuracies: _containers.RepeatedCompositeFieldContainer[Accuracy]
    parity: Parity
    golden_check: GoldenCheck
    provenance: Provenance
    preprocessing_json: str
    quantization: Quantization
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., task: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., state_reason: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., inputs: _Optional[_Iterable[_Union[TensorDescription, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[TensorDescription, _Mapping]]] = ..., max_batch_size: _Optional[int] = ..., requested_execution_provider: _Optional[str] = ..., actual_execution_provider: _Optional[str] = ..., device: _Optional[str] = ..., model_digest: _Optional[str] = ..., verified: bool = ..., accuracies: _Optional[_Iterable[_Union[Accuracy, _Mapping]]] = ..., parity: _Optional[_Union[Parity, _Mapping]] = ..., golden_check: _Optional[_Union[GoldenCheck, _Mapping]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ..., preprocessing_json: _Optional[str] = ..., quantization: _Optional[_Union[Quantization, _Mapping]] = ...) -> None: ...

class ClassificationResult(_message.Message):
    __slots__ = ("classification", "error")
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    classification: Classification
    error: ItemError
    def __init__(self, classification: _Optional[_Union[Classification, _Mapping]] = ..., error: _Optional[_Union[ItemError, _Mapping]] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ("scored_labels",)
    SCORED_LABELS_FIELD_NUMBER: _ClassVar[int]
    scored_labels: _containers.RepeatedCompositeFieldContainer[ScoredLabel]
    def __init__(self, scored_labels: _Optional[_Iterable[_Union[ScoredLabel, _Mapping]]] = ...) -> None: ...

class ScoredLabel(_message.Message):
    __slots__ = ("index", "label", "probability")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    probability: float
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class ItemError(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("queue_seconds", "decode_seconds", "assemble_seconds", "infer_seconds", "batch_size", "bucket", "padding_ratio", "instance", "execution_provider", "device", "model_digest", "release_reason", "lone")
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ASSEMBLE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    INFER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    BUCKET_FIELD_NUMBER: _ClassVar[int]
    PADDING_RATIO_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RELEASE_REASON_FIELD_NUMBER: _ClassVar[int]
    LONE_FIELD_NUMBER: _ClassVar[int]
    queue_seconds: float
    decode_seconds: float
    assemble_seconds: float
    infer_seconds: float
    batch_size: int
    bucket: int
    padding_ratio: float
    instance: str
    execution_provider: str
    device: str
    model_digest: str
    release_reason: str
    lone: bool
    def __init__(self, queue_seconds: _Optional[float] = ..., decode_seconds: _Optional[float] = ..., assemble_seconds: _Optional[float] = ..., infer_seconds: _Optional[float] = ..., batch_size: _Optional[int] = ..., bucket: _Optional[int] = ..., padding_ratio: _Optional[float] = ..., instance: _Optional[str] = ..., execution_provider: _Optional[str] = ..., device: _Optional[str] = ..., model_digest: _Optional[str] = ..., release_reason: _Optional[str] = ..., lone: bool = ...) -> None: ...

class TensorDescription(_message.Message):
    __slots__ = ("name", "datatype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Accuracy(_message.Message):
    __slots__ = ("metric", "value", "split", "count", "interval_low", "interval_high", "torch_value", "dataset")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_LOW_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_HIGH_FIELD_NUMBER: _ClassVar[int]
    TORCH_VALUE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    metric: str
    value: float
    split: str
    count: int
    interval_low: float
    interval_high: float
    torch_value: float
    dataset: str
    def __init__(self, metric: _Optional[str] = ..., value: _Optional[float] = ..., split: _Optional[str] = ..., count: _Optional[int] = ..., interval_low: _Optional[float] = ..., interval_high: _Optional[float] = ..., torch_value: _Optional[float] = ..., dataset: _Optional[str] = ...) -> None: ...

class Parity(_message.Message):
    __slots__ = ("tolerance", "max_abs_difference", "top1_agreement", "count")
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    TOP1_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    tolerance: float
    max_abs_difference: float
    top1_agreement: float
    count: int
    def __init__(self, tolerance: _Optional[float] = ..., max_abs_difference: _Optional[float] = ..., top1_agreement: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...

class Quantization(_message.Message):
    __slots__ = ("method", "source_digest", "excluded_nodes", "accuracy_before", "accuracy_loss", "top1_agreement", "speedup", "machine")
    class SpeedupEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXCLUDED_NODES_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_BEFORE_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_LOSS_FIELD_NUMBER: _ClassVar[int]
    TOP1_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    SPEEDUP_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    method: str
    source_digest: str
    excluded_nodes: _containers.RepeatedScalarFieldContainer[str]
    accuracy_before: float
    accuracy_loss: float
    top1_agreement: float
    speedup: _containers.ScalarMap[str, float]
    machine: str
    def __init__(self, method: _Optional[str] = ..., source_digest: _Optional[str] = ..., excluded_nodes: _Optional[_Iterable[str]] = ..., accuracy_before: _Optional[float] = ..., accuracy_loss: _Optional[float] = ..., top1_agreement: _Optional[float] = ..., speedup: _Optional[_Mapping[str, float]] = ..., machine: _Optional[str] = ...) -> None: ...

class GoldenCheck(_message.Message):
    __slots__ = ("passed", "max_abs_error")
    PASSED_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_ERROR_FIELD_NUMBER: _ClassVar[int]
    passed: bool
    max_abs_error: float
    def __init__(self, passed: bool = ..., max_abs_error: _Optional[float] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("architecture", "recipe", "dataset", "seed", "git_commit", "create_time", "dataset_digest")
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    GIT_COMMIT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    DATASET_DIGEST_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    recipe: str
    dataset: str
    seed: int
    git_commit: str
    create_time: _timestamp_pb2.Timestamp
    dataset_digest: str
    def __init__(self, architecture: _Optional[str] = ..., recipe: _Optional[str] = ..., dataset: _Optional[str] = ..., seed: _Optional[int] = ..., git_commit: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., dataset_digest: _Optional[str] = ...) -> None: ...

"""How the server runs: flag > environment > TOML file > default. The only reader of any of them.

Parsed once, validated once, logged once, then passed as an argument. A flag ``--max-queued-requests``
is the variable ``CONVSERVE_MAX_QUEUED_REQUESTS`` and the TOML key ``max_queued_requests``. Beside a
model's versions, ``serving.toml`` may override each :func:`_model_setting`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from service.client_flags import CLIENT_PREFIX
from service.errors import SettingsError
from service.scheduling import LEAST_WEIGHT
from service.service_links import without_service_links
from service.strict import StrictError, parse

Device = Literal["auto", "cpu", "cuda"]
ENVIRONMENT_PREFIX = "CONVSERVE_"
_VERSIONS = re.compile(r"all|latest:[1-9][0-9]{0,17}|[1-9][0-9]{0,17}(,[1-9][0-9]{0,17})*")
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")
T = TypeVar("T")


def _setting(default: T, text: str) -> T:
    return field(default=default, metadata={"help": text, "per_model": False})


def _model_setting(default: T, text: str) -> T:
    """State one that ``MODEL/serving.toml`` may override for its model."""
    return field(default=default, metadata={"help": text, "per_model": True})


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator can choose. Units stand in the names; 0 threads or instances: choose for me."""

    models: str = _setting("", "model repository: a folder of MODEL/VERSION/model.onnx")
    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 for every interface, :: with IPv6")
    grpc_port: int = _setting(8001, "gRPC port; 0 takes a free one")
    http_host: str = _setting("", "address of the HTTP endpoint; empty: the same as --host")
    http_port: int = _setting(8002, "port of /metrics, /livez, /readyz and the status page; 0 takes a free one")
    try_form: bool = _setting(True, "a form on the status page that classifies one picture or sentence; none with TLS")
    triton_metrics: bool = _setting(False, "export Triton's metric names as well, such as nv_inference_request_success")
    versions: str = _model_setting("latest:1", "versions to serve: latest:N, all, or numbers such as 1,3")
    model_control_mode: Literal["none", "poll", "explicit"] = _setting(
        "none", "none: load once, at the start; poll: follow the repository; explicit: RepositoryModelLoad/Unload"
    )
    repository_poll_seconds: float = _setting(5.0, "mode poll: how often the server checks the repository")
    load_models: str = _setting("", "mode explicit: models to load at the start, such as a,b; * for all")
    device: Device = _model_setting(
        "auto", "cuda refuses to start rather than run on the CPU; auto uses CUDA where it works"
    )
    cuda_execution: Literal["plain", "bound", "graph"] = _model_setting(
        "plain", "CUDA: bound keeps buffers on the device for each batch size; graph replays each as a CUDA graph"
    )
    cudnn_search: Literal["heuristic", "exhaustive"] = _model_setting(
        "heuristic", "CUDA: how cuDNN chooses algorithms; exhaustive loads more slowly"
    )
    tf32: bool = _model_setting(False, "CUDA: round products to 10 bits; golden answers may then not be reproduced")
    tensorrt: bool = _model_setting(False, "CUDA: try TensorRT first, if this ONNX Runtime has it")
    tensorrt_cache: str = _setting("", "folder in which TensorRT keeps its engines, which take minutes to build")
    transport: Literal["auto", "native", "grpcio"] = _setting("auto", "HTTP/2 implementation: see docs/operations.md")
    trust_clients: bool = _setting(False, "a proxy bounds message sizes, so the native transport may face a network")
    infer_tokens_file: str = _setting("", "bearer tokens that allow inference, one per line; empty: anyone may infer")
    admin_tokens_file: str = _setting(
        "", "bearer tokens to load models, change logging, register memory; empty: anyone on loopback, otherwise no one"
    )
    tls_certificate: str = _setting("", "PEM file with the server's certificate chain; turns TLS on")
    tls_key: str = _setting("", "PEM file with the private key of that certificate")
    tls_client_ca: str = _setting("", "PEM file with the roots of clients' certificates; clients must then present one")
    instances: int = _model_setting(
        0, "threads that run batches of one model; 0: chosen from measurements or the cores"
    )
    intra_op_threads: int = _model_setting(0, "threads within one run; 0: chosen from measurements or the cores")
    lone_threads: int = _model_setting(
        0, "most threads of a batch that runs alone; 0: all cores if faster; 1: as others"
    )
    weight: float = _model_setting(
        1.0, "CPU time that a model gets when all want the cores, relative to a model of weight 1"
    )
    measuring_seconds: float = _model_setting(
        0.04, "longest time to measure batch costs at load; the rest is learned in service"
    )
    cost_folder: str = _setting("", "where measured costs are kept; empty: beside each version, if it is writable")
    max_batch_size: int = _model_setting(
        0, "most rows in a batch, at most what was verified for the model; 0: at most 32"
    )
    max_request_rows: int = _model_setting(
        0, "most rows in one request; what exceeds a batch runs as several; 0: one batch"
    )
    advertised_input: Literal["tensor", "encoded"] = _model_setting(
        "tensor", "input type that metadata shows for pictures and sentences; the server accepts both either way"
    )
    max_queue_delay_seconds: float = _model_setting(0.0, "how long an idle instance may wait for a fuller batch")
    max_queued_requests: int = _model_setting(1024, "most requests of one model that may wait in its queue")
    refusals: Literal["prompt", "late"] = _model_setting(
        "prompt", "prompt: refuse at arrival what is predicted to be late; late: refuse only once it is certain"
    )
    response_cache_bytes: int = _setting(
        0, "memory for cached answers to identical requests, of all models; 0: no cache"
    )
    response_cache: bool = _model_setting(True, "whether answers are cached, if response_cache_bytes allows any")
    merge_identical_requests: bool = _model_setting(
        False, "run identical requests in flight once and answer all of them"
    )
    priority_levels: int = _model_setting(0, "levels of the request parameter priority, 1 is first; 0: ignore it")
    default_priority_level: int = _model_setting(
        0, "level of a request without that parameter, at most the last; 0: the middle"
    )
    run_timeout_seconds: float = _setting(
        60.0, "a batch that runs longer has hung: its callers get an error, the version is reloaded; 0: never"
    )
    load_timeout_seconds: float = _setting(600.0, "a version that takes longer to load has failed; 0: no limit")
    latency_objective_seconds: float = _model_setting(0.0, "deadline of a request with none or a later one; 0: none")
    max_message_bytes: int = _setting(64 * 1024 * 1024, "largest request message")
    max_concurrent_streams: int = _setting(1024, "most calls in flight on one connection")
    max_connection_age_seconds: float = _setting(0.0, "grpcio: age at which clients are told to reconnect; 0: never")
    max_picture_bytes: int = _setting(32 * 1024 * 1024, "largest encoded picture")
    max_picture_pixels: int = _setting(50_000_000, "most pixels in a picture, checked before decoding")
    max_sentences_or_pictures: int = _setting(1024, "most items in one Classify call")
    decode_threads: int = _setting(0, "threads that decode pictures and tokenise sentences; 0: one per core, at most 4")
    overload_status: Literal["RESOURCE_EXHAUSTED", "UNAVAILABLE"] = _setting(
        "RESOURCE_EXHAUSTED", "status of a refusal for overload; UNAVAILABLE is what Triton uses"
    )
    lame_duck_seconds: float = _setting(2.0, "after SIGTERM: how long to report not ready while still answering")
    drain_seconds: float = _setting(30.0, "after the lame duck: how long work in flight may take before it is given up")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "lowest severity that is logged")
    log_format: Literal["json", "text"] = _setting("json", "json: one object per line; text: for a terminal")
    access_log_sample_rate: float = _setting(
        0.0, "share of all calls that is logged; failures are always logged, at most 10 per second"
    )
    otlp_endpoint: str = _setting("", "OTLP/gRPC collector of traces, http(s)://HOST:PORT; empty: no traces")
    trace_sample_rate: float = _setting(0.01, "share of calls traced when the caller sends no traceparent")

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ValueError: Names the setting, the range and the value.
        """
        for name, least, most in (
            ("grpc_port", 0, 65535),
            ("http_port", 0, 65535),
            ("repository_poll_seconds", 0.1, 86400),
            ("instances", 0, 256),
            ("intra_op_threads", 0, 256),
            ("lone_threads", 0, 256),
            ("weight", LEAST_WEIGHT, 1),
            ("measuring_seconds", 0, 600),
            ("max_batch_size", 0, 4096),
            ("max_request_rows", 0, 1_000_000),
            ("max_queue_delay_seconds", 0, 10),
            ("max_queued_requests", 1, 1_000_000),
            ("response_cache_bytes", 0, 2**40),
            ("priority_levels", 0, 100),
            ("default_priority_level", 0, 100),
            ("run_timeout_seconds", 0, 86400),
            ("load_timeout_seconds", 0, 86400),
            ("latency_objective_seconds", 0, 3600),
            ("max_message_bytes", 1024, 2**31 - 1),
            ("max_concurrent_streams", 1, 1_000_000),
            ("max_connection_age_seconds", 0, 604800),
            ("max_picture_bytes", 1, 2**31 - 1),
            ("max_picture_pixels", 1, 2**31 - 1),
            ("max_sentences_or_pictures", 1, 1_000_000),
            ("decode_threads", 0, 64),
            ("lame_duck_seconds", 0, 600),
            ("drain_seconds", 0, 3600),
            ("access_log_sample_rate", 0, 1),
            ("trace_sample_rate", 0, 1),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name}: expected {least} to {most}, got {value}")
        if not _VERSIONS.fullmatch(self.versions):
            raise ValueError(f"versions: expected latest:N, all, or numbers such as 1,3, got {self.versions!r}")
        if self.otlp_endpoint and not _ENDPOINT.fullmatch(self.otlp_endpoint):
            raise ValueError(f"otlp_endpoint: expected http(s)://HOST:PORT, got {self.otlp_endpoint!r}")


def read_model_settings(path: Path, settings: Settings) -> Settings:
    """Return the settings with a model's ``serving.toml`` laid over them, if there is one.

    Raises:
        SettingsError: The file is damaged, or a key is unknown or of another type or range.
    """
    if not os.path.lexists(path):
        return settings
    if not os.path.isfile(path):  # not to be taken for none
        raise SettingsError(f"{path}: it is not a file")
    per_model = [setting.name for setting in dataclasses.fields(Settings) if setting.metadata["per_model"]]
    return dataclasses.replace(settings, **_from_file(path, per_model))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and one flag a setting to a parser."""
    parser.add_argument(
        "--config", metavar="FILE.toml", help="TOML file with settings; flags and environment variables override it"
    )
    hints = get_type_hints(Settings)
    for setting in dataclasses.fields(Settings):
        flag = "--" + setting.name.replace("_", "-")
        place = "; also in MODEL/serving.toml" if setting.metadata["per_model"] else ""
        text = f"{setting.metadata['help']} (default: {setting.default!r}{place})".replace("%", "%%")
        if hints[setting.name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            # What is not among the choices `resolve` refuses, in one line; argparse would print every flag before it.
            choices = get_args(hints[setting.name])
            metavar = f"{{{','.join(choices)}}}" if choices else setting.name.rsplit("_", 1)[-1].upper()
            parser.add_argument(flag, default=None, metavar=metavar, help=text)


def resolve(flags: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Settings:
    """Combine flags, environment, file and defaults.

    Raises:
        SettingsError: One line that names the flag, variable or key, and what is wrong with it.
    """
    hints = get_type_hints(Settings)
    names = [setting.name for setting in dataclasses.fields(Settings)]
    values: dict[str, Any] = {}
    config = environment.get(ENVIRONMENT_PREFIX + "CONFIG") if flags.config is None else flags.config
    if config:
        values |= _from_file(Path(config), names)
    environment = without_service_links(environment, ENVIRONMENT_PREFIX)
    _refuse_unknown_variables(environment, names)
    for name in names:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environment:
            values[name] = _convert(hints[name], environment[variable], variable)
        if (flag := getattr(flags, name, None)) is not None:
            values[name] = _convert(hints[name], flag, "--" + name.replace("_", "-"))
    try:
        settings = Settings(**values)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if not settings.models:
        raise SettingsError("no model repository: give --models DIR")
    if settings.load_models and settings.model_control_mode != "explicit":
        raise SettingsError("--load-models needs --model-control-mode explicit")
    return settings


def _refuse_unknown_variables(environment: Mapping[str, str], names: Sequence[str]) -> None:
    known = {ENVIRONMENT_PREFIX + name.upper() for name in (*names, "config")}
    for variable in environment:
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in known and not variable.startswith(CLIENT_PREFIX):
            raise SettingsError(f"environment variable {variable}: there is no such setting")


def _from_file(path: Path, known: Sequence[str]) -> dict[str, Any]:
    """Return what a TOML file sets, if it may set all of that."""
    given = _read_toml(path)
    for name in given:
        if name not in known:
            raise SettingsError(f"{path}: unknown key '{name}'; known: {', '.join(known)}")
    try:
        parsed = parse(Settings, given)
    except StrictError as error:
        raise SettingsError(f"{path}: {error}") from None
    return {name: getattr(parsed, name) for name in given}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: not readable as TOML ({error})") from None


def _convert(hint: Any, value: Any, source: str) -> Any:
    """Turn text from a flag or a variable into the setting's type."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise SettingsError(f"{source}: expected one of {', '.join(get_args(hint))}, got {value!r}")
        return value
    if hint is bool:
        if isinstance(value, bool):
            return value
        truth = {"1": True, "true": True, "0": False, "false": False}.get(value.lower())
        if truth is None:
            raise SettingsError(f"{source}: expected true or false, got {value!r}")
        return truth
    try:
        return hint(value)
    except ValueError:
        raise SettingsError(f"{source}: expected {hint.__name__}, got {value!r}") from None

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import SettingsError
from service.settings import Settings, add_flags, resolve

BOUNDS: dict[str, tuple[float, float]] = {
    "grpc_port": (0, 65535),
    "http_port": (0, 65535),
    "instances": (0, 256),
    "intra_op_threads": (0, 256),
    "measuring_seconds": (0, 600),
    "lone_threads": (0, 256),
    "weight": (0.02, 1),
    "max_batch_size": (0, 4096),
    "max_request_rows": (0, 1_000_000),
    "max_queue_delay_seconds": (0, 10),
    "max_queued_requests": (1, 1_000_000),
    "response_cache_bytes": (0, 2**40),
    "priority_levels": (0, 100),
    "default_priority_level": (0, 100),
    "latency_objective_seconds": (0, 3600),
    "run_timeout_seconds": (0, 86400),
    "load_timeout_seconds": (0, 86400),
    "max_message_bytes": (1024, 2**31 - 1),
    "max_concurrent_streams": (1, 1_000_000),
    "max_connection_age_seconds": (0, 604800),
    "max_picture_bytes": (1, 2**31 - 1),
    "max_picture_pixels": (1, 2**31 - 1),
    "max_sentences_or_pictures": (1, 1_000_000),
    "decode_threads": (0, 64),
    "lame_duck_seconds": (0, 600),
    "drain_seconds": (0, 3600),
    "access_log_sample_rate": (0, 1),
    "trace_sample_rate": (0, 1),
    "repository_poll_seconds": (0.1, 86400),
}

PER_MODEL = [
    "versions",
    "device",
    "cuda_execution",
    "cudnn_search",
    "tf32",
    "tensorrt",
    "instances",
    "intra_op_threads",
    "lone_threads",
    "weight",
    "measuring_seconds",
    "max_batch_size",
    "max_request_rows",
    "advertised_input",
    "max_queue_delay_seconds",
    "max_queued_requests",
    "refusals",
    "response_cache",
    "merge_identical_requests",
    "priority_levels",
    "default_priority_level",
    "latency_objective_seconds",
]


def flags(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parser.parse_args(arguments)


def resolved(*arguments: str, **environment: str) -> Settings:
    return resolve(flags(*arguments), {f"CONVSERVE_{name}": value for name, value in environment.items()})


def refusal(*arguments: str, **environment: str) -> str:
    with pytest.raises(SettingsError) as caught:
        resolved(*arguments, **environment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_as_documented() -> None:
    plain = resolved("--models", "m")
    assert plain == Settings(models="m")
    assert (plain.grpc_port, plain.http_port, plain.host) == (8001, 8002, "127.0.0.1")


@pytest.mark.parametrize("sources", range(16))
def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(tmp_path: Path, sources: int) -> None:
    file = tmp_path / "c.toml"
    file.write_text('models = "file"\n' + ("grpc_port = 3\n" if sources & 1 else ""))
    arguments = ["--config", str(file), *(["--grpc-port", "1"] if sources & 4 else [])]
    environment = {"GRPC_PORT": "2"} if sources & 2 else {}
    if sources & 8:
        environment["MODELS"] = "environment"
    settings = resolved(*arguments, **environment)
    assert settings.grpc_port == (1 if sources & 4 else 2 if sources & 2 else 3 if sources & 1 else 8001)
    assert settings.models == ("environment" if sources & 8 else "file")


def test_the_file_may_be_named_by_the_environment_and_the_flag_wins(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('models = "a"\n')
    (tmp_path / "b.toml").write_text('models = "b"\n')
    assert resolved(CONFIG=str(tmp_path / "a.toml")).models == "a"
    assert resolved("--config", str(tmp_path / "b.toml"), CONFIG=str(tmp_path / "a.toml")).models == "b"
    assert refusal("--config", "", CONFIG=str(tmp_path / "a.toml")) == "no model repository: give --models DIR"


SAMPLES: dict[Any, tuple[Any, str]] = {int: (7, "7"), float: (0.5, "0.5"), str: ("x", "x"), bool: (True, "true")}
TEXTS = {"otlp_endpoint": "http://collector:4317", "versions": "1,3"}


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_setting_can_be_given_in_every_way(tmp_path: Path, field: dataclasses.Field[Any]) -> None:
    hint = get_type_hints(Settings)[field.name]
    value, text = SAMPLES.get(hint) or ((choice := hint.__args__[-1]), choice)
    if field.name == "max_message_bytes":
        value, text = 4096, "4096"
    value, text = (TEXTS.get(field.name, given) for given in (value, text))
    flag = "--" + field.name.replace("_", "-")
    file = tmp_path / "c.toml"
    written = f'"{value}"' if isinstance(value, str) else str(value).lower()
    file.write_text(f"{field.name} = {written}\n" + ('models = "m"\n' if field.name != "models" else ""))
    models = () if field.name == "models" else ("--models", "m")
    given = [flag] if hint is bool else [flag, text]
    mode = {"MODEL_CONTROL_MODE": "explicit"} if field.name == "load_models" else {}
    for settings in (
        resolved(*models, *given, **mode),
        resolved(*models, **{field.name.upper(): text}, **mode),
        resolved("--config", str(file), **mode),
    ):
        assert getattr(settings, field.name) == value
        assert type(getattr(settings, field.name)) is type(value)


def test_every_setting_has_a_help_text() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = parser.format_help()
    for field in dataclasses.fields(Settings):
        assert "--" + field.name.replace("_", "-") in text
        assert len(field.metadata["help"]) > 10
    assert " ".join(text.split()).count("; also in MODEL/serving.toml)") == len(PER_MODEL)


def test_a_switch_can_be_turned_off_by_flag() -> None:
    assert resolved("--models", "m", "--no-trust-clients", TRUST_CLIENTS="1").trust_clients is False


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("TRUE", True), ("true", True), ("0", False), ("False", False)]
)
def test_truth_in_the_environment(text: str, value: bool) -> None:
    assert resolved("--models", "m", TRUST_CLIENTS=text).trust_clients is value


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"GRPC_PROT": "1"}, "environment variable CONVSERVE_GRPC_PROT: there is no such setting"),
        ({"grpc_port": "1"}, "environment variable CONVSERVE_grpc_port: there is no such setting"),
        ({"GRPC_PORT": "http"}, "CONVSERVE_GRPC_PORT: expected int, got 'http'"),
        ({"GRPC_PORT": "1.5"}, "CONVSERVE_GRPC_PORT: expected int, got '1.5'"),
        ({"GRPC_PORT": ""}, "CONVSERVE_GRPC_PORT: expected int, got ''"),
        ({"DRAIN_SECONDS": "soon"}, "CONVSERVE_DRAIN_SECONDS: expected float, got 'soon'"),
        ({"DRAIN_SECONDS": "nan"}, "drain_seconds: expected 0 to 3600, got nan"),
        ({"DEVICE": "tpu"}, "CONVSERVE_DEVICE: expected one of auto, cpu, cuda, got 'tpu'"),
        ({"TRUST_CLIENTS": "yes"}, "CONVSERVE_TRUST_CLIENTS: expected true or false, got 'yes'"),
        ({"HTTP_PORT": "70000"}, "http_port: expected 0 to 65535, got 70000"),
    ],
)
def test_a_wrong_variable_is_named(environment: dict[str, str], message: str) -> None:
    assert refusal("--models", "m", **environment) == message


def test_variables_of_others_are_none_of_our_business() -> None:
    assert resolve(flags("--models", "m"), {"PATH": "/bin", "CONV_SERVE": "1"}).models == "m"
    assert resolve(flags("--models", "m"), {"CONVSERVE_CLIENT_TOKEN": "t"}).models == "m"


def test_a_wrong_flag_is_named() -> None:
    assert refusal("--models", "m", "--max-batch-size", "many") == "--max-batch-size: expected int, got 'many'"
    assert refusal("--models", "m", "--max-batch-size", "-1") == "max_batch_size: expected 0 to 4096, got -1"
    assert refusal("--models", "m", "--device", "tpu") == "--device: expected one of auto, cpu, cuda, got 'tpu'"


@pytest.mark.parametrize(
    "policy",
    ["", "newest", "latest", "latest:", "latest:0", "latest:-1", "latest:01", "All", "0", "1,", ",1", "1, 2", "\u0661"],
)
def test_versions_are_the_newest_all_or_numbers(policy: str) -> None:
    told = refusal("--models", "m", "--versions", policy)
    assert told == f"versions: expected latest:N, all, or numbers such as 1,3, got {policy!r}"


@pytest.mark.parametrize("host", ["collector", "10.0.0.1", "[fd00::1]", "a-b.example.org"])
def test_a_collector_has_a_host_and_may_have_a_port(host: str) -> None:
    for endpoint in (f"http://{host}:4317", f"https://{host}", f"http://{host}:4317/"):
        assert resolved("--models", "m", "--otlp-endpoint", endpoint).otlp_endpoint == endpoint


@pytest.mark.parametrize("endpoint", ["collector:4317", "http://", "http://:4317", "http://a b:1", "http://\udcff:1"])
def test_what_is_no_collector_is_refused(endpoint: str) -> None:
    told = refusal("--models", "m", "--otlp-endpoint", endpoint)
    assert told == f"otlp_endpoint: expected http(s)://HOST:PORT, got {endpoint!r}"


def test_numbers_of_versions_have_at_most_18_digits() -> None:
    for policy in ("9" * 18, "latest:" + "9" * 18):
        assert resolved("--models", "m", "--versions", policy).versions == policy
        refusal("--models", "m", "--versions", policy + "9" * 5000)


def test_a_repository_is_required() -> None:
    assert refusal() == "no model repository: give --models DIR"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("grpc_prot = 1", "unknown key 'grpc_prot'; known: models, "),
        ('grpc_port = "1"', "grpc_port: expected int, got '1'"),
        ("grpc_port = true", "grpc_port: expected int, got True"),
        ("trust_clients = 1", "trust_clients: expected bool, got 1"),
        ('device = "tpu"', "device: expected one of 'auto', 'cpu', 'cuda', got 'tpu'"),
        ("drain_seconds = inf", "drain_seconds: expected a finite number, got inf"),
        ("grpc_port = 70000", "grpc_port: expected 0 to 65535, got 70000"),
        ("[serve]\ngrpc_port = 1", "unknown key 'serve'; known: models, "),
        ("grpc_port", "not readable as TOML ("),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(content)
    assert refusal("--config", str(path)).startswith(f"{path}: {message}")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    assert refusal("--config", str(tmp_path / "no.toml")) == f"{tmp_path}/no.toml: No such file or directory"
    assert refusal("--config", str(tmp_path)) == f"{tmp_path}: Is a directory"
    (tmp_path / "c.toml").write_bytes(b"\xff")
    assert refusal("--config", str(tmp_path / "c.toml")).startswith(f"{tmp_path}/c.toml: not readable as TOML (")


def test_every_number_is_bounded() -> None:
    numbers = {name for name, hint in get_type_hints(Settings).items() if hint in (int, float)}
    assert numbers == set(BOUNDS)


@pytest.mark.parametrize(("name", "least", "most"), [(name, *bounds) for name, bounds in BOUNDS.items()])
def test_bounds_are_inclusive(name: str, least: float, most: float) -> None:
    for value in (least, most):
        assert getattr(Settings(**{name: value}), name) == value
    for value in (least - 1, most + 1, float("nan")):
        with pytest.raises(ValueError, match=rf"^{name}: expected {least} to {most}, got "):
            Settings(**{name: value})


@given(st.sampled_from(sorted(BOUNDS)), st.text(max_size=6))
def test_any_text_is_a_number_in_range_or_refused_in_one_line(name: str, text: str) -> None:
    try:
        settings = resolved("--models", "m", **{name.upper(): text})
    except SettingsError as error:
        message = str(error)
    else:
        least, most = BOUNDS[name]
        assert least <= getattr(settings, name) <= most
        message = name
    assert name in message.lower()


@pytest.mark.parametrize("mode", ["none", "poll"])
def test_models_are_named_for_the_start_in_mode_explicit_only(mode: str) -> None:
    told = refusal("--models", "m", "--load-models", "a", "--model-control-mode", mode)
    assert told == "--load-models needs --model-control-mode explicit"
    assert resolved("--models", "m", "--load-models", "a", "--model-control-mode", "explicit").load_models == "a"

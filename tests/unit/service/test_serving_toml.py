from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from service.errors import SettingsError
from service.settings import Settings, read_model_settings
from tests.unit.service.test_settings import PER_MODEL, SAMPLES, TEXTS


def test_without_a_file_the_servers_settings_hold(tmp_path: Path) -> None:
    settings = Settings(models="m")
    assert read_model_settings(tmp_path / "serving.toml", settings) is settings


def test_a_models_file_overrides_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "serving.toml"
    path.write_text('device = "cpu"\nmax_queue_delay_seconds = 1\n')
    merged = read_model_settings(path, Settings(models="m", instances=3))
    assert merged == Settings(models="m", instances=3, device="cpu", max_queue_delay_seconds=1)


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_a_model_may_override_these_settings_alone(tmp_path: Path, field: dataclasses.Field[Any]) -> None:
    hint = get_type_hints(Settings)[field.name]
    value = TEXTS.get(field.name) or (SAMPLES.get(hint) or hint.__args__[-1:])[0]
    path = tmp_path / "serving.toml"
    path.write_text(f"{field.name} = " + (f'"{value}"' if isinstance(value, str) else str(value).lower()))
    if field.name in PER_MODEL:
        merged = read_model_settings(path, Settings(models="m"))
        assert merged == dataclasses.replace(Settings(models="m"), **{field.name: value})
    else:
        with pytest.raises(SettingsError) as caught:
            read_model_settings(path, Settings(models="m"))
        assert str(caught.value) == f"{path}: unknown key '{field.name}'; known: {', '.join(PER_MODEL)}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("grpc_port = 1", "unknown key 'grpc_port'; known: versions, "),
        ("instances = 1.5", "instances: expected int, got 1.5"),
        ("instances = 257", "instances: expected 0 to 256, got 257"),
        ('versions = "newest"', "versions: expected latest:N, all, or numbers such as 1,3, got 'newest'"),
        ('device = "gpu"', "device: expected one of 'auto', 'cpu', 'cuda', got 'gpu'"),
        ("=", "not readable as TOML ("),
        ("a = " + "[" * 10_000, "not readable as TOML ("),
    ],
)
def test_a_wrong_models_file_is_named_with_its_key(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "serving.toml"
    path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        read_model_settings(path, Settings(models="m"))
    assert str(caught.value).startswith(f"{path}: {message}")

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from service.errors import SettingsError
from service.parts import access, choose_transport
from service.settings import Settings
from service.transport.address import is_loopback

LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({}, "native"),
        ({"host": "127.0.0.2"}, "native"),
        ({"host": "localhost"}, "native"),
        ({"host": "::1"}, "native"),
        ({"host": "[::1]"}, "native"),
        ({"host": "::1:2"}, "grpcio"),
        ({"host": "127.example.org"}, "grpcio"),
        ({"host": "localhost.example.org"}, "grpcio"),
        ({"host": "0.0.0.0"}, "grpcio"),
        ({"host": "192.0.2.1"}, "grpcio"),
        ({"host": "::"}, "grpcio"),
        ({"host": "0.0.0.0", "trust_clients": True}, "native"),
        ({"tls_key": "key.pem"}, "grpcio"),
        ({"host": "0.0.0.0", "trust_clients": True, "tls_key": "key.pem"}, "grpcio"),
        ({"host": "0.0.0.0", "transport": "native"}, "native"),
        ({"transport": "grpcio"}, "grpcio"),
    ],
)
def test_auto_never_lets_strangers_reach_the_door_that_bounds_no_message(settings: dict[str, Any], chosen: str) -> None:
    assert choose_transport(Settings(models="models", **settings)) == chosen


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"host": "0.0.0.0", "trust_clients": True, "max_connection_age_seconds": 300.0}, True),
        ({"host": "0.0.0.0", "max_connection_age_seconds": 300.0}, False),
        ({}, False),
    ],
)
def test_an_age_that_the_chosen_door_does_not_know_is_told(
    settings: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    choose_transport(Settings(models="models", **settings))
    assert [record.levelname for record in caplog.records if "age" in record.message] == ["WARNING"] * warned


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"host": "0.0.0.0", "transport": "native"}, True),
        ({"host": "0.0.0.0", "transport": "native", "trust_clients": True}, False),
        ({"host": "0.0.0.0", "transport": "grpcio"}, False),
        ({"transport": "native"}, False),
    ],
)
def test_the_door_that_bounds_no_message_is_told_of_where_strangers_reach_it(
    settings: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    choose_transport(Settings(models="models", **settings))
    assert ["WARNING"] * warned == [record.levelname for record in caplog.records if "a network but" in record.message]


def test_without_the_extra_there_is_one_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygrpc_native", None)
    assert choose_transport(Settings(models="models")) == "grpcio"
    with pytest.raises(SettingsError, match="pip install '\\.\\[fast\\]'"):
        choose_transport(Settings(models="models", transport="native"))


def test_the_door_that_needs_a_socket_of_linux_is_not_taken_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert choose_transport(Settings(models="models")) == "grpcio"
    with pytest.raises(SettingsError, match="--transport native needs Linux"):
        choose_transport(Settings(models="models", transport="native"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "OK"),
        ({"host": "0.0.0.0"}, "FAILED_PRECONDITION"),
        ({"host": "192.0.2.1", "trust_clients": True}, "FAILED_PRECONDITION"),
    ],
)
@pytest.mark.parametrize("method", ["SystemSharedMemoryRegister", "RepositoryModelLoad", "LogSettings"])
def test_strangers_register_no_shared_memory_and_administer_nothing(
    settings: dict[str, Any], method: str, expected: str
) -> None:
    error = access(Settings(models="models", **settings)).refusal(f"/inference.GRPCInferenceService/{method}", [])
    assert (error.status if error else "OK") == expected


def test_each_token_file_is_for_its_group(tmp_path: Path) -> None:
    for name in ("infer", "admin"):
        (tmp_path / name).write_text(name)
    files = {f"{name}_tokens_file": str(tmp_path / name) for name in ("infer", "admin")}
    made = access(Settings(models="models", **files))
    told = [made.refusal(LOAD, [("authorization", f"Bearer {name}")]) for name in ("infer", "admin")]
    assert [error.status if error else "OK" for error in told] == ["PERMISSION_DENIED", "OK"]
    assert not made.open_to_infer


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "transport native: loopback"),
        ({"host": "192.0.2.1"}, "transport grpcio: 192.0.2.1 faces a network"),
        ({"host": "192.0.2.1", "trust_clients": True}, "transport native: trusted clients"),
        ({"tls_key": "key.pem"}, "transport grpcio: TLS is on"),
        ({"transport": "grpcio"}, "transport grpcio: asked for"),
    ],
)
def test_which_door_and_why_is_logged(settings: dict[str, Any], line: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        choose_transport(Settings(models="models", **settings))
    assert caplog.messages == [line]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("0:0:0:0:0:0:0:1", True),
        ("localhost.example.org", False),
        ("127.example.org", False),
        ("::1.example.org", False),
        ("::10", False),
        ("::", False),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback

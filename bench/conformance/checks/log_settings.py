"""log-settings: read, changed, put back."""

from __future__ import annotations

from typing import Any

import grpc

from bench.conformance.outcome import CallFailed, NotApplicable, expect, expect_equal
from bench.conformance.registry import server_check
from service.pb.inference import grpc_service_pb2 as pb

_SOURCE = "Triton, extension_logging.md"


def _read(suite: Any) -> dict[str, Any]:
    return dict(suite.target.call("LogSettings", pb.LogSettingsRequest()).settings)


@server_check("log-settings", "every setting has a value", _SOURCE)
def read(suite: Any) -> None:
    settings = _read(suite)
    expect(bool(settings), "settings", "none")
    for name, value in settings.items():
        expect(value.WhichOneof("parameter_choice") is not None, f"a value of '{name}'", "none")


@server_check("log-settings", "a setting that is changed shows its new value, and can be put back", _SOURCE)
def change(suite: Any) -> None:
    before = _read(suite)
    if "log_verbose_level" not in before:
        raise NotApplicable("there is no log_verbose_level")
    old = before["log_verbose_level"].uint32_param
    try:
        for level in (0 if old else 1, old):
            request = pb.LogSettingsRequest()
            request.settings["log_verbose_level"].uint32_param = level
            level_set = suite.target.call("LogSettings", request).settings["log_verbose_level"].uint32_param
            expect_equal(level_set, level, "log_verbose_level in the answer")
            expect_equal(_read(suite)["log_verbose_level"].uint32_param, level, "log_verbose_level when read")
        expect_equal(sorted(_read(suite)), sorted(before), "settings afterwards")
    finally:
        _put_back(suite, before)


def _put_back(suite: Any, before: dict[str, Any]) -> None:
    """Restore the settings that differ from before: a verbose level may have switched the milder ones on."""
    now = _read(suite)
    request = pb.LogSettingsRequest()
    for name, value in before.items():
        if now.get(name) != value:
            request.settings[name].ParseFromString(value.SerializeToString())  # two types, the same fields
    if request.settings:
        suite.target.call("LogSettings", request)


@server_check("log-settings", "an unknown setting is INVALID_ARGUMENT, or ignored", "no text says so")
def unknown(suite: Any) -> None:
    request = pb.LogSettingsRequest()
    request.settings["no_such_setting"].bool_param = True
    try:
        suite.target.call("LogSettings", request)
    except CallFailed as failed:
        if failed.code is grpc.StatusCode.UNIMPLEMENTED:
            raise
        expect(failed.code is grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", failed)
    expect("no_such_setting" not in _read(suite), "no such setting", sorted(_read(suite)))


@server_check("log-settings", "a value of another type is INVALID_ARGUMENT", f"{_SOURCE}; the code: Triton")
def wrong_type(suite: Any) -> None:
    if "log_verbose_level" not in _read(suite):
        raise NotApplicable("there is no log_verbose_level")
    request = pb.LogSettingsRequest()
    request.settings["log_verbose_level"].string_param = "much"
    suite.target.refused("LogSettings", request, grpc.StatusCode.INVALID_ARGUMENT)

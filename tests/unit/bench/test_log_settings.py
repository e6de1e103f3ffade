from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bench.conformance.checks import log_settings
from service import logs
from service.pb.inference import grpc_service_pb2 as pb
from service.transport.admin import Admin


@pytest.fixture(autouse=True)
def _same_level_afterwards() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_server_logs_afterwards_what_it_logged_before(level: str) -> None:
    admin: Any = Admin(None, None, may_load=False)  # type: ignore[arg-type]
    target = SimpleNamespace(call=lambda _, request: admin._log_settings(request))
    logs.set_level(level)
    before = logs.settings()
    log_settings.change(SimpleNamespace(target=target))
    assert logs.settings() == before
    assert admin._log_settings(pb.LogSettingsRequest()).settings["log_info"].bool_param == before["log_info"]

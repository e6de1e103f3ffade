from __future__ import annotations

import pytest

from service.settings import Settings
from tests.unit.service.test_settings import refusal, resolved


@pytest.mark.parametrize("service", ["", "PREDICTOR_", "ENVOY_", "X_2_", "GRPC_", "HTTP_"])
@pytest.mark.parametrize(
    ("link", "value"),
    [
        ("SERVICE_HOST", "10.0.0.1"),
        ("SERVICE_PORT", "8001"),
        ("SERVICE_PORT_GRPC", "8001"),
        ("PORT", "tcp://10.0.0.1:8001"),
        ("PORT", "udp://[fd00::1]:8001"),
        ("PORT_8001_TCP", "tcp://10.0.0.1:8001"),
        ("PORT_8001_TCP_PROTO", "tcp"),
        ("PORT_8001_TCP_PORT", "8001"),
        ("PORT_8001_SCTP_ADDR", "10.0.0.1"),
    ],
)
def test_what_kubernetes_writes_of_services_named_like_this_is_passed_over(service: str, link: str, value: str) -> None:
    assert resolved("--models", "m", **{service + link: value}) == Settings(models="m")


@pytest.mark.parametrize("variable", ["PORTS", "PORT", "GRCP_PORT", "SERVICE", "PORT_8001", "HTTP_HOST_SERVICE"])
def test_what_only_looks_like_it_is_still_no_setting(variable: str) -> None:
    told = refusal("--models", "m", **{variable: "8001"})
    assert told == f"environment variable CONVSERVE_{variable}: there is no such setting"


def test_a_port_of_this_server_goes_on_counting() -> None:
    assert resolved("--models", "m", GRPC_PORT="18001").grpc_port == 18001

"""What gRPC's own library holds of a refused call; what the server's code holds is a unit test's subject."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from service.pb.inference import grpc_service_pb2 as pb
from tests.integration.conftest import Embed
from tests.integration.harness import ADD_SUB, DEADLINE_SECONDS, Client, eventually, failure

REFUSED: dict[str, Callable[[Client], Any]] = {
    "ModelInfer": lambda client: client.infer(ADD_SUB),
    "ModelMetadata": lambda client: client.inference.ModelMetadata(pb.ModelMetadataRequest(name="none")),
    "ModelStreamInfer": lambda client: list(client.inference.ModelStreamInfer(iter([]), timeout=DEADLINE_SECONDS)),
    "Health": lambda client: client.health.Check(health_pb2.HealthCheckRequest(service="none")),
}


@pytest.mark.parametrize("method", REFUSED)
def test_the_message_of_a_refused_call_is_let_go_at_once(embed: Embed, tmp_path: Path, method: str) -> None:
    """Its context keeps the exception that ends it, whose frames had the message, perhaps of megabytes."""
    tokens = tmp_path / "tokens"
    tokens.write_text("0123456789abcdef0123456789abcdef\n")
    with embed(infer_tokens_file=str(tokens)) as server:
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                failure(REFUSED[method], server.client)
            eventually(lambda: not _held(), "nothing of them is held")
        finally:
            gc.enable()


def _held() -> list[str]:
    """Return the variables in frames that the exceptions came through."""
    errors = [one for one in gc.get_objects() if type(one) is grpc.aio.AbortError]
    return [name for error in errors for frame, _ in traceback.walk_tb(error.__traceback__) for name in frame.f_locals]

"""Load by Locust, for those who like its page: ``locust -f bench/locustfile.py --host HOST:PORT``.

A closed loop whose Python client spends more on a call than the server does: good for watching a server live, not for
finding its limit, for which there are ``convserve-bench load`` and ``compare``. Needs ``pip install locust`` beside
this project. Environment: ``MODEL`` (default lenet5-mnist), ``ROWS`` of a request (1), ``DEADLINE_SECONDS`` (5); for
TLS and a token ``CONVSERVE_CLIENT_…`` as for the commands.
"""

from __future__ import annotations

import itertools
import os
import time

import grpc.experimental.gevent
from locust import User, constant, task

from bench.conformance.model import learn
from bench.conformance.target import Target
from bench.load.answers import generated_requests
from service.client import credentials_of
from service.pb.inference import grpc_service_pb2 as pb

grpc.experimental.gevent.init_gevent()  # else one call would block every user

MODEL = os.environ.get("MODEL", "lenet5-mnist")
ROWS = int(os.environ.get("ROWS", "1"))
DEADLINE_SECONDS = float(os.environ.get("DEADLINE_SECONDS", "5"))
_DISTINCT = 16
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Caller(User):
    """One caller with a connection of its own, who asks anew as soon as an answer is there."""

    wait_time = constant(0)

    def on_start(self) -> None:
        """Connect, learn from the server what the model takes, make up requests."""
        address = (self.host or "127.0.0.1:8001").removeprefix("grpc://")
        self._target = Target(address, DEADLINE_SECONDS, credentials_of())
        requests = generated_requests(learn(self._target, MODEL, {}), _DISTINCT, ROWS, "")
        self._requests = itertools.cycle(requests)
        self._infer = self._target.channel.unary_unary(_METHOD)

    def on_stop(self) -> None:
        """Close the connection."""
        self._target.channel.close()

    @task
    def infer(self) -> None:
        """Make one call; a refusal or any other status is a failure under its gRPC name."""
        begun, error, answer = time.perf_counter(), None, b""
        try:
            answer = self._infer(next(self._requests), timeout=DEADLINE_SECONDS)
            pb.ModelInferResponse.FromString(answer)
        except grpc.RpcError as failed:
            error = RuntimeError(failed.code().name)
        took_ms = (time.perf_counter() - begun) * 1e3
        self.environment.events.request.fire(
            request_type="gRPC",
            name=f"ModelInfer {MODEL}",
            response_time=took_ms,
            response_length=len(answer),
            exception=error,
        )

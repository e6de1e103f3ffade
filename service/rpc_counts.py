"""RPCs started and handled, under the names of go-grpc-prometheus, for dashboards of gRPC servers at large.

``grpc_server_started_total`` and ``grpc_server_handled_total`` with its labels and its spelling of types and codes
(github.com/grpc-ecosystem/go-grpc-prometheus, README.md, "Metrics"). A stream is one RPC, whatever it carries.
"""

from __future__ import annotations

import threading
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.errors import ServingError

_STREAMS = {"ModelStreamInfer": "bidi_stream", "ServerReflectionInfo": "bidi_stream", "Watch": "server_stream"}
_METHOD = ("grpc_type", "grpc_service", "grpc_method")
_SPELT_OTHERWISE = {"OK": "OK", "CANCELLED": "Canceled"}


class Rpc:
    """An RPC under way.

    Attributes:
        code: The code that it ends with; if it is still empty then, the caller left or an error escaped the handler.
    """

    code = ""


class RpcCounts(Collector):
    """Counts RPCs by method. Thread-safe. At no time have more been handled than started."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Begin with none, and show them in scrapes of a registry."""
        self._started: Counts[str] = Counts()
        self._handled: Counts[tuple[str, str]] = Counts()
        self._lock = threading.Lock()
        registry.register(self)

    def started(self, method: str, number: int = 1) -> None:
        """Count RPCs in; ``method`` is ``/package.Service/Method``."""
        with self._lock:
            self._started[method] += number

    def handled(self, method: str, code: str, number: int = 1) -> None:
        """Count RPCs out that ended with a code, such as ``RESOURCE_EXHAUSTED``; each has been counted in."""
        with self._lock:
            self._handled[method, code] += number

    @contextmanager
    def one(self, method: str, leaving: Callable[[], ServingError]) -> Iterator[Rpc]:
        """Count an RPC in, and out when the context is left; ``leaving`` gives its error if its caller leaves then."""
        rpc = Rpc()
        self.started(method)
        try:
            yield rpc
        except Exception:
            rpc.code = rpc.code or "UNKNOWN"  # as gRPC answers
            raise
        finally:
            self.handled(method, rpc.code or leaving().status)

    def collect(self) -> Iterable[Metric]:
        """Yield both families as a scrape shows them."""
        with self._lock:
            started, handled = dict(self._started), dict(self._handled)
        family = CounterMetricFamily("grpc_server_started", "RPCs that reached the server", labels=_METHOD)
        for method, count in started.items():
            family.add_metric(_labels(method), count)
        yield family
        family = CounterMetricFamily("grpc_server_handled", "RPCs that ended, by code", labels=(*_METHOD, "grpc_code"))
        for (method, code), count in handled.items():
            family.add_metric((*_labels(method), _spelt(code)), count)
        yield family


def _labels(method: str) -> tuple[str, str, str]:
    _, service, name = method.split("/")
    return _STREAMS.get(name, "unary"), service, name


def _spelt(code: str) -> str:
    return _SPELT_OTHERWISE.get(code) or "".join(part.capitalize() for part in code.split("_"))

"""The composition root: build, start, become ready, drain, stop. Only here do signals and clocks meet."""

from __future__ import annotations

import functools
import logging
import os
import queue
import random
import signal
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from service import __version__
from service.backend.onnx import RUNTIME
from service.batching.response_cache import ResponseCache
from service.cores import Cores
from service.dataplane import DataPlane
from service.errors import ProviderUnavailable, SettingsError
from service.metrics import Metrics
from service.parts import access, choose_transport, credentials, tracing
from service.processors import usable_cores
from service.repository import loading
from service.repository.lifecycle import Lifecycle
from service.repository.reconciler import Reconciler
from service.repository.watchdog import Watchdog
from service.repository.watcher import Watcher
from service.repository.widening import Widening
from service.scheduling import wait_for_turns
from service.settings import Settings
from service.shortage import shortages_named
from service.transport.access_log import AccessLog
from service.transport.address import ABSTRACT, listening, new_name, target
from service.transport.admin import Admin
from service.transport.calls import Calls
from service.transport.describe import extensions
from service.transport.grpcio_door import GrpcioDoor
from service.transport.health import Health
from service.transport.http_endpoint import HttpEndpoint
from service.transport.limits import DoorLimits
from service.transport.pages import pages
from service.transport.recorder import Recorder
from service.transport.servicers import Servicers
from service.transport.shared_memory import SharedMemory
from service.transport.triton_metrics import TritonMetrics
from service.vital import vital_thread
from service.workers import Workers

if TYPE_CHECKING:
    from service.transport.fast_lane import FastLane

_LOG = logging.getLogger(__name__)
_LOOK_SECONDS = 0.02  # how soon the drain notices that every answer has gone out
_LAST_BYTES_SECONDS = 0.05  # for bytes on their way: callers lose them if they send to a connection that is closed
_TRACES_SECONDS = 5.0  # for the last traces, when the server stops


class Server:
    """Everything that runs, and its order of starting and stopping."""

    def __init__(self, settings: Settings) -> None:
        """Build without starting.

        Raises:
            SettingsError: The settings ask for a transport that cannot be had.
        """
        self._settings = settings
        self._lame_duck = False
        self.fatal: Exception | None = None
        self.failed = threading.Event()
        self.loaded = threading.Event()
        self.metrics = Metrics(__version__, RUNTIME)
        self.metrics.ready.set_function(self.is_ready)
        self.metrics.draining.set_function(lambda: self._lame_duck)
        self.lifecycle = Lifecycle(self.metrics, listener=self._refresh_health)
        if settings.triton_metrics:
            self.metrics.registry.register(TritonMetrics(self.lifecycle.ready))
        cache = ResponseCache(settings.response_cache_bytes) if settings.response_cache_bytes else None
        self._cores = Cores()
        load = functools.partial(loading.load, cache=cache, cores=self._cores)
        self.reconciler = Reconciler(settings, self.metrics, self.lifecycle, load)
        self._watchdog = Watchdog(self.lifecycle, self.reconciler, settings.run_timeout_seconds, on_death=self._die)
        self._widening = Widening(self.lifecycle, self.reconciler)
        root, every_seconds = Path(settings.models), settings.repository_poll_seconds
        self._watcher = Watcher(self.reconciler, root, every_seconds, self._die)
        threads = settings.decode_threads or min(4, usable_cores())
        self._workers = Workers("prepare", threads, self._die, self._cores.roam)
        self.dataplane = DataPlane(self.lifecycle, self._workers, settings.max_sentences_or_pictures)
        self._shared_memory = SharedMemory(settings.max_message_bytes)
        self._tracing = tracing(settings, self.dataplane)
        recorder = Recorder(AccessLog(settings.access_log_sample_rate, random.random), self._tracing)
        self._calls = Calls(
            self.dataplane, self.metrics, self._shared_memory, settings.overload_status, access(settings), recorder
        )
        self._health = Health(self.lifecycle, self.is_ready, lambda: self._lame_duck)
        may_load = settings.model_control_mode == "explicit"
        servicers = Servicers(self.lifecycle, self.is_ready, extensions(may_load=may_load))
        admin = Admin(self.reconciler, self._shared_memory, may_load=may_load)
        self.transport = choose_transport(settings)
        self._limits = DoorLimits(
            settings.max_message_bytes,
            settings.max_concurrent_streams,
            # Not behind the native door, whose connections to grpcio are not the callers'.
            max_connection_age_seconds=settings.max_connection_age_seconds if self.transport == "grpcio" else 0.0,
            age_grace_seconds=settings.drain_seconds,
        )
        methods = [*servicers.methods(), *admin.methods()]
        self._grpcio = GrpcioDoor(self._calls, methods, self._health, self._limits, credentials(settings), self._die)
        self._fast_lane: FastLane | None = None
        self._http: HttpEndpoint | None = None
        self.grpc_port = 0
        self.http_port = 0

    def is_ready(self) -> bool:
        """Whether the server serves every wanted version and is not about to stop."""
        return not self._lame_duck and self.fatal is None and self.lifecycle.is_ready

    def start(self) -> None:
        """Listen, then load the repository in the background; ``loaded`` is set when that is over.

        Raises:
            SettingsError: A port cannot be bound, or it shows at once that nothing can be served.
        """
        settings = self._settings
        self._workers.start()
        self._watcher.tell()  # first: it may say why there is nothing to load
        self.reconciler.announce()  # before anybody can call: they would hear that there is no such model
        http_address = (settings.http_host or settings.host, settings.http_port)
        with listening("http", *http_address, "--http-host" if settings.http_host else "--host"):
            routes = pages(self._calls, self.metrics, self.is_ready, settings)
            self._http = HttpEndpoint(http_address, routes, self._die)
            self.http_port = self._http.port
            self._http.start()
        with listening("grpc", settings.host, settings.grpc_port, "--host"):
            self._start_doors(target(settings.host, settings.grpc_port))
        fields = {"grpc_port": self.grpc_port, "http_port": self.http_port, "transport": self.transport}
        _LOG.info("listening", extra={"fields": fields | {"host": settings.host}})
        vital_thread("loader", self._load, self._die).start()

    def _start_doors(self, address: str) -> None:
        if self.transport == "grpcio":
            self.grpc_port = self._grpcio.start(address)
            return
        from service.transport.fast_lane import FastLane  # noqa: PLC0415 - the extra `fast` may be absent

        name = new_name()
        self._grpcio.start(ABSTRACT + name)
        self._fast_lane = FastLane(
            address,
            name,
            self._calls,
            limits=self._limits,
            cores=self._cores,
            on_death=self._die,
        )
        self.grpc_port = self._fast_lane.port
        self._fast_lane.start()

    def _load(self) -> None:
        try:
            with shortages_named():
                self._watchdog.start()  # first: versions are called as soon as they are loaded
                self.reconciler.load_all()
                self._widening.start()
                if self._settings.model_control_mode == "poll":
                    self._watcher.start()
        except (ProviderUnavailable, SettingsError) as error:
            self._die(error)
        finally:
            self.loaded.set()

    def _die(self, error: Exception) -> None:
        self.fatal = error
        self.failed.set()
        self._refresh_health()

    def _refresh_health(self) -> None:
        self._health.refresh()

    def drain(self, hurry: threading.Event) -> bool:
        """Leave: not ready at once, lame duck, callers sent away, no new calls, queue finished, doors closed.

        Args:
            hurry: Set to skip what is left of the waiting.

        Returns:
            Whether nothing runs any more: no batch, no loading, no opening of a session.
        """
        settings = self._settings
        self._lame_duck = True
        self._watcher.stop()
        self._watchdog.stop()
        self._widening.stop()
        self._health.refresh()
        _LOG.info("draining", extra={"fields": {"in_flight": self._calls.in_flight.count}})
        hurry.wait(settings.lame_duck_seconds)
        if self.transport == "grpcio":  # the native door's library cannot tell callers to go
            self._grpcio.leave()
        self.dataplane.draining = True
        give_up = time.monotonic() + (0 if hurry.is_set() else settings.drain_seconds)
        while self._calls.in_flight.count and time.monotonic() < give_up and not hurry.is_set():
            self._calls.in_flight.wait_idle(0.1)
        finished = self.lifecycle.close(0 if hurry.is_set() else max(0.0, give_up - time.monotonic()))
        while self._unsent() and time.monotonic() < give_up and not hurry.wait(_LOOK_SECONDS):
            pass
        hurry.wait(_LAST_BYTES_SECONDS)
        finished &= self._close(hurry)
        _LOG.info("stopped", extra={"fields": {"in_flight": self._calls.in_flight.count}})
        return finished and not self.reconciler.runs_on and self.loaded.is_set() and self._widening.stop()

    def _unsent(self) -> int:
        """Return how many calls have answers that have not gone out completely: callers take a while to read some."""
        return self._grpcio.unsent + (0 if self._fast_lane is None else self._fast_lane.unsent)

    def _close(self, hurry: threading.Event) -> bool:
        """Close everything; return whether nothing is decoded any more."""
        if self._fast_lane is not None:
            self._fast_lane.close()
        self._grpcio.stop(grace_seconds=1.0)
        if self._http is not None:
            self._http.close()
        if self._tracing is not None:
            self._tracing.close(0.0 if hurry.is_set() else _TRACES_SECONDS)
        self._shared_memory.unregister()
        return self._workers.close()


def run(settings: Settings) -> int:
    """Serve until SIGTERM, SIGINT or SIGHUP; a second signal that is no SIGHUP stops at once.

    Returns:
        The exit code: 0 after a drain, 2 if the server could not serve as it was told to.
    """
    _LOG.info("starting", extra={"fields": {"version": __version__} | asdict(settings)})
    with shortages_named():
        wait_for_turns()
        stop, hurry = _listen_for_signals()
        server = Server(settings)
        server.start()
    while not stop.wait(0.5) and server.fatal is None:
        pass
    if server.fatal is not None:
        hurry.set()
    finished = server.drain(hurry)
    if server.fatal is not None:
        _LOG.error("cannot serve: %s", server.fatal)  # the last line: the first that is looked for
    code = 0 if server.fatal is None else 2
    if not finished:
        # The interpreter would tear the runtime down under the thread that is in it, which aborts.
        logging.shutdown()
        os._exit(code)
    return code


def _listen_for_signals() -> tuple[threading.Event, threading.Event]:
    """Return two events: the first signal sets the first, the second that is no SIGHUP sets the second.

    A handler runs between any two instructions of the main thread, which may hold the event's lock
    just then. So the handlers only put into a reentrant queue, and a thread sets the events.
    """
    stop, hurry = threading.Event(), threading.Event()
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def pass_on() -> None:
        signals.get()
        stop.set()
        while signals.get() == signal.SIGHUP:  # from a terminal that closes, whose shell and kernel both send it
            pass
        hurry.set()

    threading.Thread(target=pass_on, name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda received, _: signals.put(received))
    return stop, hurry

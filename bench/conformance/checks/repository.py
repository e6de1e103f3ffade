"""repository: the index, and loading and unloading where both server and user allow it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc

from bench.conformance.model import Model
from bench.conformance.outcome import CallFailed, CheckFailed, NotApplicable, Unsupported, expect, expect_equal
from bench.conformance.registry import model_check, server_check
from service.pb.inference import grpc_service_pb2 as pb

_SOURCE = "Triton, extension_model_repository.md"
_GONE = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)
# What a server that does not allow it may answer; Triton says UNAVAILABLE.
NOT_ALLOWED = (
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
)


def _index(suite: Any, *, ready: bool = False) -> list[Any]:
    return list(suite.target.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=ready)).models)


@model_check("repository", "the index lists the model's versions as READY", _SOURCE)
def index(suite: Any, model: Model) -> None:
    for ready in (False, True):
        entries = [entry for entry in _index(suite, ready=ready) if entry.name == model.name]
        states = {entry.version: entry.state for entry in entries if entry.state == "READY"}
        expect(set(model.versions or ("",)) <= set(states), f"versions {list(model.versions)} READY", entries)


@server_check("repository", "the index of ready models contains no others", _SOURCE)
def ready_only(suite: Any) -> None:
    states = {entry.state for entry in _index(suite, ready=True)}
    expect(states <= {"READY"}, "READY only", sorted(states))


@server_check("repository", "loading a model that does not exist fails", _SOURCE)
def load_unknown(suite: Any) -> None:
    _load_fails(suite, "no-such-model")


@server_check("repository", "a name that is a path is refused", "no text says so; a name is one folder")
def load_path(suite: Any) -> None:
    for name in ("../no-such-model", "/etc", "..", ""):
        _load_fails(suite, name)


def _load_fails(suite: Any, name: str) -> None:
    _may_change(suite)
    try:
        suite.target.call("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=name))
    except CallFailed as failed:
        if failed.code in NOT_ALLOWED:
            raise Unsupported(f"loading is not allowed: {failed}") from None
        lost = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
        expect(failed.code not in lost, "an error that says what is wrong", failed)
        return
    raise CheckFailed(f"expected an error for the name '{name}', got OK")


@model_check("repository", "a model can be unloaded, is then unavailable, and can be loaded again", _SOURCE)
def unload_and_load(suite: Any, model: Model) -> None:
    _index(suite)
    _may_change(suite)
    _allowed(suite, "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=model.name))
    try:
        suite.target.call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=model.name))
        _eventually(suite, lambda: not _is_ready(suite, model), "the model not ready after unloading")
        suite.target.refused("ModelInfer", model.valid_request(), *_GONE)
        ready = [entry.name for entry in _index(suite, ready=True)]
        expect(model.name not in ready, f"'{model.name}' not among what is ready", ready)
    finally:
        suite.target.call("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name=model.name))
    expect_equal(_is_ready(suite, model), True, "ready as soon as RepositoryModelLoad has answered")
    suite.target.infer(model.valid_request())


def _may_change(suite: Any) -> None:
    """Skip the check unless the user allows changes: even a load that fails makes Triton as a whole not ready."""
    if not suite.may_unload:
        raise NotApplicable("loading and unloading was not requested (--load-unload)")


def _allowed(suite: Any, method: str, request: Any) -> None:
    try:
        suite.target.call(method, request)
    except CallFailed as failed:
        if failed.code in NOT_ALLOWED:
            raise Unsupported(f"not allowed: {failed}") from None
        raise


def _is_ready(suite: Any, model: Model) -> bool:
    try:
        return bool(suite.target.call("ModelReady", pb.ModelReadyRequest(name=model.name)).ready)
    except CallFailed as failed:
        expect(failed.code in _GONE, "NOT_FOUND, or ready: false", failed)
        return False


def _eventually(suite: Any, condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + suite.target.timeout_seconds
    while not condition():
        if time.monotonic() > give_up:
            raise CheckFailed(f"expected {what}, got nothing of the kind in {suite.target.timeout_seconds} s")
        time.sleep(0.01)  # unloading ends after RepositoryModelUnload has answered

"""versions: none is the server's choice, a number that one, anything else a refusal."""

from __future__ import annotations

from typing import Any

import grpc

from bench.conformance.checks.health import not_ready
from bench.conformance.model import Model
from bench.conformance.outcome import Unsupported, expect, expect_equal
from bench.conformance.registry import model_check
from service.pb.inference import grpc_service_pb2 as pb

_SOURCE = "OIP, model_version"
_NO_VERSION = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def _needs_versions(model: Model) -> None:
    if not model.versions:
        raise Unsupported("the model has no versions")


@model_check("versions", "without a version the server takes one, and says which", _SOURCE)
def no_version(suite: Any, model: Model) -> None:
    _needs_versions(model)
    response = suite.target.infer(model.valid_request())
    expect(response.model_version in model.versions, f"one of {', '.join(model.versions)}", response.model_version)
    expect_equal(response.model_name, model.name, "model_name")


@model_check("versions", "a version asked for is the one that answers", _SOURCE)
def version_asked_for(suite: Any, model: Model) -> None:
    _needs_versions(model)
    for version in model.versions:
        response = suite.target.infer(model.valid_request(version=version))
        expect_equal(response.model_version, version, "model_version")
        ready = suite.target.call("ModelReady", pb.ModelReadyRequest(name=model.name, version=version))
        expect_equal(ready.ready, True, f"ready of version {version}")


@model_check("versions", "an unknown version is NOT_FOUND in ModelInfer", f"{_SOURCE}; the code: Triton")
def unknown_version(suite: Any, model: Model) -> None:
    suite.target.refused("ModelInfer", model.valid_request(version="987654"), grpc.StatusCode.NOT_FOUND)


@model_check("versions", "an unknown version is NOT_FOUND in ModelMetadata", f"{_SOURCE}; the code: Triton")
def unknown_version_metadata(suite: Any, model: Model) -> None:
    request = pb.ModelMetadataRequest(name=model.name, version="987654")
    suite.target.refused("ModelMetadata", request, grpc.StatusCode.NOT_FOUND)


@model_check("versions", "an unknown version is not ready: NOT_FOUND or false", f"{_SOURCE}; the code: Triton")
def unknown_version_ready(suite: Any, model: Model) -> None:
    not_ready(suite, pb.ModelReadyRequest(name=model.name, version="987654"))


@model_check("versions", "a negative version is INVALID_ARGUMENT, or NOT_FOUND", "Triton; no text says so")
def negative_version(suite: Any, model: Model) -> None:
    suite.target.refused("ModelInfer", model.valid_request(version="-1"), *_NO_VERSION)


@model_check("versions", "a version that is no number is INVALID_ARGUMENT, or NOT_FOUND", "Triton; no text says so")
def version_of_text(suite: Any, model: Model) -> None:
    suite.target.refused("ModelInfer", model.valid_request(version="newest"), *_NO_VERSION)

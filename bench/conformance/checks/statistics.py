"""statistics: do the counts grow by exactly what was sent?"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import grpc

from bench.conformance.model import Model
from bench.conformance.outcome import CallFailed, expect, expect_equal
from bench.conformance.registry import model_check, server_check
from service.pb.inference import grpc_service_pb2 as pb

_SOURCE = "Triton, extension_statistics.md"
_PATIENCE_SECONDS = 3.0  # a server may count after it has answered


@dataclass(frozen=True)
class _Counts:
    """What is compared, of one version."""

    requests: int
    rows: int
    runs: int
    rows_by_batch: int
    runs_by_batch: int
    phases: tuple[int, int, int, int]


def _counts(suite: Any, model: Model) -> _Counts:
    """Sum over versions: a request without a version goes to one of them."""
    answer = suite.target.call("ModelStatistics", pb.ModelStatisticsRequest(name=model.name))
    mine = [stats for stats in answer.model_stats if stats.name == model.name]
    expect(bool(mine), f"statistics of '{model.name}'", answer)
    batches = [batch for stats in mine for batch in stats.batch_stats]
    phases = ("queue", "compute_input", "compute_infer", "compute_output")
    return _Counts(
        requests=sum(stats.inference_stats.success.count for stats in mine),
        rows=sum(stats.inference_count for stats in mine),
        runs=sum(stats.execution_count for stats in mine),
        rows_by_batch=sum(batch.batch_size * batch.compute_infer.count for batch in batches),
        runs_by_batch=sum(batch.compute_infer.count for batch in batches),
        phases=tuple(sum(getattr(s.inference_stats, phase).count for s in mine) for phase in phases),
    )


def _settled_counts(suite: Any, model: Model, requests: int) -> _Counts:
    """Return the counts once they hold ``requests``, or when patience is at its end."""
    give_up = time.monotonic() + min(_PATIENCE_SECONDS, suite.target.timeout_seconds)
    while True:
        counts = _counts(suite, model)
        if counts.requests >= requests or time.monotonic() > give_up:
            return counts
        time.sleep(0.01)  # a remote server has nothing that could be waited for


@model_check("statistics", "requests, rows and runs grow by exactly what was sent, batch_stats too", _SOURCE)
def counts_grow(suite: Any, model: Model) -> None:
    before = _counts(suite, model)
    sizes = (1, min(3, model.max_rows))
    for rows in sizes:
        suite.target.infer(model.valid_request(rows))
    after = _settled_counts(suite, model, before.requests + len(sizes))
    expect_equal(after.requests - before.requests, len(sizes), "growth of inference_stats.success.count")
    expect_equal(after.rows - before.rows, sum(sizes), "growth of inference_count, which counts rows")
    expect_equal(after.runs - before.runs, len(sizes), "growth of execution_count")
    expect_equal(after.rows_by_batch - before.rows_by_batch, sum(sizes), "growth of rows in batch_stats")
    expect_equal(after.runs_by_batch - before.runs_by_batch, len(sizes), "growth of runs in batch_stats")


@model_check("statistics", "every phase counts each answered request once", _SOURCE)
def phases_count(suite: Any, model: Model) -> None:
    before = _counts(suite, model)
    suite.target.infer(model.valid_request())
    after = _settled_counts(suite, model, before.requests + 1)
    grown = [new - old for old, new in zip(before.phases, after.phases, strict=True)]
    expect_equal(grown, [1] * 4, "growth of queue, compute_input, compute_infer, compute_output")


@model_check("statistics", "a refused request counts neither as answered nor as rows", _SOURCE)
def refused_is_not_counted(suite: Any, model: Model) -> None:
    before = _counts(suite, model)
    request = model.valid_request()
    request.inputs[0].name = "no-such-input"
    with contextlib.suppress(CallFailed):
        suite.target.infer(request)
    suite.target.infer(model.valid_request())
    after = _settled_counts(suite, model, before.requests + 1)
    expect_equal((after.requests - before.requests, after.rows - before.rows), (1, 1), "growth of requests, rows")


@model_check("statistics", "last_inference is milliseconds, and moves", _SOURCE)
def last_inference(suite: Any, model: Model) -> None:
    suite.target.infer(model.valid_request())
    stats = suite.target.call("ModelStatistics", pb.ModelStatisticsRequest(name=model.name)).model_stats
    last = max(entry.last_inference for entry in stats)
    a_day_ms = 24 * 3600 * 1000
    expect(abs(last - time.time() * 1000) < a_day_ms, "last_inference near now, in milliseconds since 1970", last)


@server_check("statistics", "without a name, every model is there", _SOURCE)
def all_models(suite: Any) -> None:
    answer = suite.target.call("ModelStatistics", pb.ModelStatisticsRequest())
    names = {stats.name for stats in answer.model_stats}
    wanted = {model.name for model in suite.models}
    expect(wanted <= names, f"{', '.join(sorted(wanted))} among the models", sorted(names))


@server_check("statistics", "an unknown model is NOT_FOUND, or INVALID_ARGUMENT as Triton has it", _SOURCE)
def unknown(suite: Any) -> None:
    request = pb.ModelStatisticsRequest(name="no-such-model")
    codes = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
    suite.target.refused("ModelStatistics", request, *codes)

"""Disks that fill up and clocks that step."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from service.pb.inference import grpc_service_pb2 as pb
from tests.integration import graphs
from tests.integration.conftest import Embed
from tests.integration.harness import ADD_SUB, DEADLINE_SECONDS, ServerProcess, eventually

HOUR = 3600.0


def test_a_version_cut_short_by_a_full_disk_is_not_served(tmp_path: Path, transport: str):
    graphs.write(tmp_path, "add-sub", graphs.add_sub())
    flags = ("--model-control-mode", "poll", "--repository-poll-seconds", "0.1")
    with ServerProcess(tmp_path, transport, *flags) as server:
        whole = (tmp_path / "add-sub" / "1" / "model.onnx").read_bytes()
        (tmp_path / "add-sub" / "2").mkdir()
        file = tmp_path / "add-sub" / "2" / "model.onnx"
        file.write_bytes(whole[: len(whole) // 2])
        server.wait_log("model version is UNAVAILABLE")
        assert server.client.infer(ADD_SUB).model_version == "1"
        assert server.get("/readyz")[0] == 200
        file.write_bytes(whole)
        eventually(lambda: server.client.infer(ADD_SUB).model_version == "2", "it is served once it is whole")


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_wall_clock_that_steps_changes_no_deadline(embed: Embed, monkeypatch: pytest.MonkeyPatch, step: float):
    """A request with a deadline waits while the clock steps by an hour: neither late nor forgotten."""
    with embed() as running:
        first = running.occupy()
        waits = pb.ModelInferRequest()
        waits.CopyFrom(ADD_SUB)
        waits.parameters["timeout"].int64_param = int(DEADLINE_SECONDS * 1e6)
        second = running.client.inference.ModelInfer.future(waits)
        eventually(lambda: running.queued == 1, "it is queued")
        now, now_ns = time.time, time.time_ns
        monkeypatch.setattr(time, "time", lambda: now() + step)
        monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(step * 1e9))
        # Without a deadline of gRPC's, which it counts from a clock that cannot be set from here.
        third = running.client.inference.ModelInfer.future(waits)
        eventually(lambda: running.queued == 2, "one more is queued")
        running.gate.open()
        for call in (first, second, third):
            assert call.result(DEADLINE_SECONDS).model_name == "add-sub"
        assert running.metric("convserve_rejected_total") == 0
        asked = pb.ModelStatisticsRequest(name="add-sub")
        (stats,) = running.client.inference.ModelStatistics(asked).model_stats
        assert stats.inference_stats.queue.ns < DEADLINE_SECONDS * 1e9

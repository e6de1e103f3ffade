"""Identical requests share an answer: later ones the kept one, those in flight one run."""

from __future__ import annotations

from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb.convserve.classification.v1 import classification_pb2
from service.pb.inference import grpc_service_pb2 as pb
from tests.integration import graphs
from tests.integration.conftest import Embed
from tests.integration.harness import (
    ADD_SUB,
    EmbeddedServer,
    ServerProcess,
    arrays_of,
    eventually,
    failure,
    infer_request,
)

ALONE = ("--model-control-mode", "explicit", "--load-models", "textcnn-mr")


def other(number: float) -> pb.ModelInferRequest:
    array = np.full((1, 4), number, dtype=np.float32)
    return infer_request("add-sub", {"a": array, "b": array})


def cache_metric(running: EmbeddedServer, what: str) -> float:
    return running.metric(f"convserve_response_cache_{what}", model="add-sub")


def test_a_kept_answer_is_the_same_to_the_byte_and_needs_no_instance(embed: Embed):
    with embed(response_cache_bytes=100_000, max_queued_requests=1) as running:
        infer = running.client.inference.ModelInfer
        asked = pb.ModelInferRequest.FromString(ADD_SUB.SerializeToString())
        asked.id = "mine"
        first = running.client.infer(asked)
        running.gate.shut()
        busy = infer.future(other(1))
        eventually(lambda: running.gate.waiting == 1, "the instance is busy")
        queued = infer.future(other(2))
        eventually(lambda: running.queued == 1, "the queue is full")
        again = running.client.infer(asked)
        assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)
        assert not running.client.infer(ADD_SUB).id
        assert failure(running.client.infer, other(3)).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        running.gate.open()
        busy.result()
        queued.result()
        assert [cache_metric(running, f"{what}_total") for what in ("hits", "misses", "evictions")] == [2, 3, 0]
        assert 0 < cache_metric(running, "bytes") <= 100_000


def test_statistics_and_configuration_tell_of_the_cache_as_triton_does(embed: Embed):
    with embed(response_cache_bytes=100_000) as running:
        for _ in range(3):
            running.client.infer(ADD_SUB)
        client = running.client.inference
        (stats,) = client.ModelStatistics(pb.ModelStatisticsRequest(name="add-sub")).model_stats
        counts = stats.inference_stats
        assert (counts.cache_hit.count, counts.cache_miss.count, counts.success.count) == (2, 1, 3)
        assert counts.cache_hit.ns > 0
        assert counts.cache_miss.ns > 0
        assert (stats.inference_count, stats.execution_count, counts.queue.count) == (1, 1, 3)
        assert client.ModelConfig(pb.ModelConfigRequest(name="add-sub")).config.response_cache.enable


def test_an_answer_says_that_it_was_kept(embed: Embed):
    asked = pb.ModelInferRequest.FromString(ADD_SUB.SerializeToString())
    asked.parameters["explain"].bool_param = True
    with embed(response_cache_bytes=100_000) as running:
        reasons = [running.client.infer(asked).parameters["release_reason"].string_param for _ in range(2)]
        assert reasons == ["idle", "cached"]


def test_a_cache_of_one_answer_lets_the_older_leave(embed: Embed):
    with embed(response_cache_bytes=1000) as running:
        for number in (1, 2, 1):
            running.client.infer(other(number))
        assert [cache_metric(running, f"{what}_total") for what in ("hits", "misses", "evictions")] == [0, 3, 2]


def test_without_a_setting_nothing_is_shared(embed: Embed):
    with embed() as running:
        for _ in range(2):
            running.client.infer(ADD_SUB)
        assert running.metric("convserve_batch_size_count", model="add-sub") == 2
        config = running.client.inference.ModelConfig(pb.ModelConfigRequest(name="add-sub")).config
        assert not config.response_cache.enable
        (stats,) = running.client.inference.ModelStatistics(pb.ModelStatisticsRequest(name="add-sub")).model_stats
        assert stats.inference_stats.cache_miss.count == 0


def test_sentences_that_were_classified_before_are_not_run_again(repository: Path, transport: str):
    asked = classification_pb2.ClassifySentencesRequest(model_name="textcnn-mr", sentences=["a fine film", "dull"])
    with ServerProcess(repository, transport, *ALONE, "--response-cache-bytes", "100000") as server:
        answers = [server.client.classification.ClassifySentences(asked).SerializeToString() for _ in range(2)]
        assert answers[0] == answers[1]
        labels = {"model": "textcnn-mr"}
        hits = server.metric("convserve_response_cache_hits_total", **labels)
        assert hits == server.metric("convserve_response_cache_misses_total", **labels) > 0


def test_known_sentences_are_answered_though_the_queue_is_full(repository: Path, transport: str):
    def ask(*sentences: str) -> classification_pb2.ClassifySentencesResponse:
        asked = classification_pb2.ClassifySentencesRequest(model_name="textcnn-mr", sentences=sentences, explain=True)
        return server.client.classification.ClassifySentences(asked)

    settings = ("--response-cache-bytes", "100000", "--decode-threads", "2", "--max-queued-requests", "1")
    with ServerProcess(repository, transport, *ALONE, *settings) as server:
        for sentence in ("a fine film", "dull"):
            ask(sentence)
        with pytest.raises(grpc.RpcError, match="makes 2 batches, the queue holds 1"):
            ask("a fine film", *["never heard of"] * 39)
        both = ask("dull", "a fine film")  # in another order, of two calls, and for two places where there is one
        assert both.explanation.release_reason == "cached"
        assert not both.explanation.instance
        alone = [ask(sentence) for sentence in ("dull", "a fine film")]
        assert [result.SerializeToString() for result in both.results] == [
            answer.results[0].SerializeToString() for answer in alone
        ]


def merged(running: EmbeddedServer) -> float:
    return running.metric("convserve_merged_requests_total", model="add-sub")


def test_identical_calls_in_flight_run_once_and_one_who_leaves_harms_nobody(embed: Embed):
    with embed(merge_identical_requests=True) as running:
        busy = running.occupy()
        infer = running.client.inference.ModelInfer
        first = infer.future(other(1))
        eventually(lambda: running.queued == 1, "the first is queued")
        others = [infer.future(other(1)) for _ in range(5)]
        eventually(lambda: merged(running) == 5, "the others have joined it")
        assert running.queued == 1
        first.cancel()
        others[0].cancel()
        eventually(lambda: running.in_flight == 5, "two have left")
        running.gate.open()
        busy.result()
        answers = {call.result().SerializeToString() for call in others[1:]}
        assert len(answers) == 1
        assert running.metric("convserve_batch_size_sum", model="add-sub") == 2
        ok = {"model": "add-sub", "code": "OK"}
        eventually(lambda: running.metric("convserve_requests_total", **ok) == 5, "five were answered")


def test_each_is_held_to_its_own_deadline(embed: Embed):
    with embed(merge_identical_requests=True) as running:
        busy = running.occupy()
        infer = running.client.inference.ModelInfer
        patient = infer.future(other(1))
        eventually(lambda: running.queued == 1, "the patient one is queued")
        hasty = failure(infer, other(1), timeout=0.2)
        assert hasty.code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
        hasty_first = infer.future(other(2), timeout=0.2)
        eventually(hasty_first.done, "its deadline has passed")
        later = infer.future(other(2), timeout=60)
        running.gate.open()
        for call in (busy, patient, later):
            assert call.result().model_name == "add-sub"


def test_all_callers_leave_and_nothing_runs(embed: Embed):
    with embed(merge_identical_requests=True, response_cache_bytes=100_000) as running:
        busy = running.occupy()
        calls = [running.client.inference.ModelInfer.future(other(1)) for _ in range(3)]
        eventually(lambda: running.queued == 1 and merged(running) == 2, "three calls wait for one run")
        for call in calls:
            call.cancel()
        eventually(lambda: running.queued == 0 and running.in_flight == 1, "all have left")
        running.gate.open()
        busy.result()
        assert running.metric("convserve_batch_size_sum", model="add-sub") == 1


def test_answers_go_with_their_version(tmp_path: Path, transport: str):
    graphs.write(tmp_path, "add-sub", graphs.add_sub())
    flags = ("--model-control-mode", "poll", "--repository-poll-seconds", "0.1", "--response-cache-bytes", "100000")
    with ServerProcess(tmp_path, transport, *flags) as server:

        def total() -> float:
            return float(arrays_of(server.client.infer(ADD_SUB))["sum"][0, 0])

        assert [total(), total()] == [5.0, 5.0]
        graphs.write(tmp_path, "aside", graphs.add_sub(offset=100.0))
        (tmp_path / "aside" / "1" / "model.onnx").replace(tmp_path / "add-sub" / "1" / "model.onnx")
        eventually(lambda: total() == 105.0, "the changed version answers")
        assert total() == 105.0
        graphs.write(tmp_path, "add-sub", graphs.add_sub(offset=200.0), version=2)
        eventually(lambda: total() == 205.0, "the newer version answers")

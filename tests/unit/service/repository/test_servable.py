from __future__ import annotations

import dataclasses
import gc
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from service.backend.onnx import OnnxBackend
from service.batching.request import PendingRequest
from service.batching.response_cache import ResponseCache
from service.cores import Cores
from service.errors import (
    BackendFailed,
    GoldenMismatch,
    GraphInvalid,
    GraphNotRunnable,
    LoadError,
    LoadTimedOut,
    ManifestInvalid,
    ProviderUnavailable,
    QueueFull,
)
from service.golden import Golden
from service.metrics import Metrics
from service.repository import proof
from service.repository.attempt import Attempt
from service.repository.lifecycle import Lifecycle
from service.repository.loading import load
from service.repository.reconciler import Reconciler
from service.repository.servable import Servable, show_facts
from service.repository.store import VersionFolder
from service.settings import Settings
from service.tensors import TensorSpec
from tests.fakes import GUARD_SECONDS, RecordingReply
from tests.unit.service.samples import (
    LABELS,
    bare_servable,
    doubling,
    graph_model,
    make_servable,
    picture_golden,
    picture_probabilities,
    text_manifest,
    text_spec,
    tokenizer,
    write_model,
    write_picture_version,
    write_sentence_version,
)

SETTINGS = Settings(device="cpu", instances=1, intra_op_threads=1)
Load = Callable[..., Servable]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("0", "test")


@pytest.fixture
def loaded(metrics: Metrics) -> Iterator[Load]:
    """Loads versions and closes them afterwards."""
    servables: list[Servable] = []

    def run(folder: VersionFolder, **changes: Any) -> Servable:
        servables.append(load(folder, dataclasses.replace(SETTINGS, **changes), metrics))
        return servables[-1]

    yield run
    for servable in servables:
        servable.batcher.close()


def ask(servable: Servable, *arrays: np.ndarray) -> list[np.ndarray]:
    """Run one request through the batcher."""
    reply = RecordingReply()
    servable.batcher.reserve()
    servable.batcher.submit(PendingRequest(arrays, servable.group_of(arrays), math.inf, 0.0, reply))
    assert reply.wait() == "OK"
    return reply.answers[0]


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"convserve_{name}", labels)


def test_a_published_version_is_loaded_proven_and_answers(tmp_path: Path, loaded: Load, metrics: Metrics) -> None:
    servable = loaded(write_picture_version(tmp_path), latency_objective_seconds=0.5)
    assert (servable.name, servable.version, servable.task) == ("pictures", 1, "image-classification")
    assert (servable.batched, servable.max_batch_size, servable.labels) == (True, 4, LABELS)
    assert servable.verified
    assert servable.golden is not None
    assert servable.golden.count == 3
    assert servable.golden.max_abs_error < 1e-6
    assert servable.provider.actual == "CPUExecutionProvider"
    assert servable.objective_seconds == 0.5
    assert servable.manifest is not None
    assert servable.digest == servable.manifest.model_digest
    images = picture_golden().inputs[0]
    (answer,) = ask(servable, images)
    np.testing.assert_allclose(answer, picture_probabilities(images), atol=1e-6)

    labels = {"model": "pictures", "version": "1"}
    assert value(metrics, "golden_check_passed", **labels) is None, "not before it serves"
    show_facts(servable, metrics)
    assert value(metrics, "golden_check_passed", **labels) == 1
    assert value(metrics, "golden_check_max_abs_error", **labels) == servable.golden.max_abs_error
    assert value(metrics, "queue_depth", **labels) == 0
    provider = {"requested": "cpu", "actual": "CPUExecutionProvider", "device": "cpu"}
    assert value(metrics, "execution_provider_info", **labels, **provider) == 1
    for bucket in ("1", "2", "4"):
        cost = value(metrics, "batch_cost_seconds", **labels, group="", bucket=bucket)
        assert cost is not None
        assert cost > 0


def test_a_version_loaded_anew_shows_nothing_of_before(tmp_path: Path, loaded: Load, metrics: Metrics) -> None:
    folder = write_picture_version(tmp_path)
    show_facts(loaded(folder, device="auto"), metrics)
    show_facts(loaded(folder, device="cpu", max_batch_size=1), metrics)
    labels = {"model": "pictures", "version": "1"}
    for requested, shown in (("auto", None), ("cpu", 1)):
        runs = {"requested": requested, "actual": "CPUExecutionProvider", "device": "cpu"}
        assert value(metrics, "execution_provider_info", **labels, **runs) == shown
    assert value(metrics, "batch_cost_seconds", **labels, group="", bucket="1") is not None
    assert value(metrics, "batch_cost_seconds", **labels, group="", bucket="4") is None


def test_batches_are_counted(tmp_path: Path, loaded: Load, metrics: Metrics) -> None:
    servable = loaded(write_picture_version(tmp_path))
    ask(servable, picture_golden().inputs[0])
    servable.batcher.close()
    labels = {"model": "pictures", "version": "1"}
    assert value(metrics, "batch_size_sum", **labels) == 3
    assert value(metrics, "batch_padding_ratio_sum", **labels) == 0.25
    assert value(metrics, "batch_release_total", **labels, reason="idle") == 1
    assert value(metrics, "phase_duration_seconds_count", **labels, phase="infer") == 1
    assert servable.metrics.snapshot().inference_count == 3


def test_predictions_are_counted_by_label(tmp_path: Path, loaded: Load, metrics: Metrics) -> None:
    servable = loaded(write_picture_version(tmp_path))
    images = np.zeros((3, 2, 3, 1), np.uint8)
    images[:2, :, 2], images[2, :, 0] = 200, 250
    ask(servable, images)
    servable.batcher.close()
    counts = {
        label: value(metrics, "predictions_total", model="pictures", version="1", **{"class": label})
        for label in LABELS
    }
    assert counts == {"zero": 1, "one": None, "two": 2}
    assert value(metrics, "prediction_confidence_count", model="pictures", version="1") == 3


def test_refusals_are_counted(tmp_path: Path, loaded: Load, metrics: Metrics) -> None:
    servable = loaded(write_picture_version(tmp_path), max_queued_requests=1)
    servable.batcher.reserve()
    with pytest.raises(QueueFull):
        servable.batcher.reserve()
    servable.batcher.release()
    assert value(metrics, "rejected_total", model="pictures", version="1", reason="queue_full") == 1


def test_answers_are_kept_where_there_is_memory_and_the_model_wants_it(tmp_path: Path, metrics: Metrics) -> None:
    folder = write_picture_version(tmp_path)
    for cache, wanted, keeps in (
        (None, True, False),
        (ResponseCache(10_000), False, False),
        (ResponseCache(10_000), True, True),
    ):
        servable = load(folder, dataclasses.replace(SETTINGS, response_cache=wanted), metrics, cache=cache)
        servable.batcher.close()
        assert (servable.shared is not None) == keeps


def test_a_sentence_version_groups_by_length(tmp_path: Path, loaded: Load) -> None:
    spec = text_spec(padding_id=0, max_tokens=40)
    servable = loaded(write_sentence_version(tmp_path, preprocessing=spec))
    assert servable.task == "sentence-classification"
    assert servable.verified
    assert servable.group_of([np.zeros((1, 5), np.int64)]) == 16
    assert servable.group_of([np.zeros((3, 16), np.int64)]) == 16
    assert servable.group_of([np.zeros((1, 17), np.int64)]) == 32
    (answer,) = ask(servable, np.array([[2, 2, 4]]))
    assert int(answer[0].argmax()) == 0


def test_a_bare_graph_is_served_as_tensors_and_says_so(tmp_path: Path, loaded: Load, metrics: Metrics) -> None:
    servable = loaded(write_model(tmp_path, doubling()))
    assert (servable.task, servable.manifest, servable.preparer, servable.labels) == ("tensor", None, None, ())
    assert (servable.verified, servable.golden) == (False, None)
    assert servable.max_batch_size == 32
    assert servable.objective_seconds == math.inf
    show_facts(servable, metrics)
    assert value(metrics, "golden_check_passed", model="m", version="1") == 0
    assert value(metrics, "golden_check_max_abs_error", model="m", version="1") is None
    assert ask(servable, np.array([[1, 2]], np.float32))[0].tolist() == [[2, 4]]


def test_a_manifest_that_the_disk_refuses_to_tell_of_is_not_taken_for_none(
    tmp_path: Path, loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_picture_version(tmp_path)

    def refusing(path: Any, *args: Any, original: Callable[..., Any], **kwargs: Any) -> Any:
        if os.fspath(path).endswith("manifest.json"):
            raise OSError(5, "Input/output error", path)
        return original(path, *args, **kwargs)

    for function in ("stat", "lstat"):
        monkeypatch.setattr(os, function, partial(refusing, original=getattr(os, function)))
    with pytest.raises(ManifestInvalid, match=r"manifest\.json: Input/output error$"):
        loaded(folder)


@pytest.mark.parametrize("left", ["nothing", "a folder", "a pipe"])
def test_a_bare_graph_that_vanishes_before_it_is_read_is_refused_with_the_reason(tmp_path: Path, left: str) -> None:
    file = tmp_path / "bare" / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    if left == "a folder":
        file.mkdir()
    elif left == "a pipe":
        os.mkfifo(file)
    with pytest.raises(GraphInvalid, match=r"model.onnx: no such file$"):
        load(VersionFolder("bare", 1, file.parent), SETTINGS, Metrics("0", "test"))


@pytest.mark.parametrize("put", [lambda path: path.symlink_to("nowhere"), Path.mkdir, os.mkfifo])
def test_a_manifest_that_cannot_be_read_makes_no_bare_graph(tmp_path: Path, put: Callable[[Path], object]) -> None:
    """It would be served unproven though somebody has said what it must answer."""
    folder = write_model(tmp_path, doubling())
    put(folder.path / "manifest.json")
    assert failure(folder, ManifestInvalid).endswith("manifest.json: no such file")


def test_a_fixed_first_axis_is_served_without_batching(tmp_path: Path, loaded: Load) -> None:
    servable = loaded(write_model(tmp_path, doubling((2, 3))))
    assert (servable.batched, servable.max_batch_size) == (False, 1)
    assert servable.inputs == (TensorSpec("x", "FP32", (-1, 2, 3)),)
    assert servable.outputs == (TensorSpec("y", "FP32", (-1, 2, 3)),)
    (answer,) = ask(servable, np.ones((1, 2, 3), np.float32))
    assert answer.tolist() == (2 * np.ones((1, 2, 3))).tolist()


def test_an_output_without_a_batch_axis_rules_batching_out(tmp_path: Path, loaded: Load) -> None:
    total = graph_model(
        [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)],
        [("x", TensorProto.FLOAT, ("N",))],
        [("total", TensorProto.FLOAT, ())],
    )
    servable = loaded(write_model(tmp_path, total))
    assert (servable.batched, servable.max_batch_size) == (False, 1)
    assert servable.group_of([np.ones((1, 7), np.float32)]) == ((7,),)
    (answer,) = ask(servable, np.ones((1, 7), np.float32))
    assert answer.tolist() == [7.0]


def test_one_that_is_given_up_while_it_runs_takes_no_core_any_more(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, hanging, end = threading.Event(), threading.Event(), threading.Event()
    run = OnnxBackend.run

    def run_or_hang(backend: OnnxBackend, *given: Any) -> list[np.ndarray]:
        if hangs.is_set():
            hanging.set()
            assert end.wait(GUARD_SECONDS)
        return run(backend, *given)

    monkeypatch.setattr(OnnxBackend, "run", run_or_hang)
    cores = Cores([0, 1], move=lambda *_: None, here=lambda: 0)
    servable = load(write_model(tmp_path, doubling()), SETTINGS, metrics, cores=cores)
    hangs.set()
    rows = np.ones((1, 2), np.float32)
    servable.batcher.offer(PendingRequest([rows], None, math.inf, 0.0, RecordingReply()))
    assert hanging.wait(GUARD_SECONDS)
    assert not cores.idle
    servable.interrupt()
    assert cores.idle
    end.set()
    servable.batcher.close()
    assert cores.idle, "nor is it counted out twice"


def test_one_that_is_given_up_while_it_is_loaded_is_interrupted_and_shows_nothing(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_picture_version(tmp_path)
    attempt = Attempt()
    replay, interrupted = proof.replay, threading.Event()

    def given_up_meanwhile(*arguments: Any) -> proof.Proof:
        assert attempt.give_up()
        return replay(*arguments)

    monkeypatch.setattr(proof, "replay", given_up_meanwhile)
    monkeypatch.setattr(OnnxBackend, "interrupt", lambda _: interrupted.set())
    with pytest.raises(LoadTimedOut):
        load(folder, SETTINGS, metrics, attempt=attempt)
    assert interrupted.is_set()
    assert b'model="' not in metrics.negotiate("")[0]


def _backends() -> list[OnnxBackend]:
    return [kept for kept in gc.get_objects() if type(kept) is OnnxBackend]


@pytest.mark.parametrize("cores", [1, 8])
def test_what_was_unloaded_lets_its_weights_go_at_once(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, cores: int, without_garbage_collection: None
) -> None:
    """A server that is idle collects no garbage for hours. Answers are made apart where there are cores to spare."""
    monkeypatch.setattr("service.repository.pricing.usable_cores", lambda: cores)
    write_picture_version(tmp_path)
    settings = dataclasses.replace(
        SETTINGS, models=str(tmp_path), model_control_mode="explicit", load_models="pictures", response_cache=True
    )
    lifecycle = Lifecycle(metrics)
    lend = partial(load, cores=Cores([0, 1], move=lambda *_: None, here=lambda: 0), cache=ResponseCache(10_000))
    reconciler = Reconciler(settings, metrics, lifecycle, lend)
    others = _backends()
    reconciler.load_all()
    ask(lifecycle.find("pictures"), picture_golden().inputs[0])
    opened = [weakref.ref(backend) for backend in _backends() if backend not in others]
    reconciler.unload_model("pictures")
    assert opened
    assert not any(backend() for backend in opened)


def test_once_it_is_interrupted_a_graph_runs_on_no_thread(tmp_path: Path) -> None:
    backend = OnnxBackend(write_model(tmp_path, doubling()).path / "model.onnx", "cpu")
    backend.interrupt()
    with pytest.raises(BackendFailed):
        backend.run([np.ones((1, 2), np.float32)])


@pytest.mark.parametrize(("setting", "expected"), [(0, 4), (3, 3), (100, 4)])
def test_no_batch_is_larger_than_verified_or_wished(tmp_path: Path, loaded: Load, setting: int, expected: int) -> None:
    assert loaded(write_picture_version(tmp_path), max_batch_size=setting).max_batch_size == expected


@pytest.mark.parametrize(("setting", "expected"), [(3, 3), (64, 64)])
def test_of_a_bare_graph_the_operators_number_counts(
    tmp_path: Path, loaded: Load, metrics: Metrics, setting: int, expected: int
) -> None:
    servable = loaded(write_model(tmp_path, doubling()), max_batch_size=setting)
    assert (servable.max_batch_size, servable.max_rows) == (expected, expected)
    show_facts(servable, metrics)
    cost = value(metrics, "batch_cost_seconds", model="m", version="1", group="", bucket=str(expected))
    assert cost is not None, "measured as well"
    rows = np.ones((expected, 2), np.float32)
    assert ask(servable, rows)[0].tolist() == (2 * rows).tolist()


def test_a_published_model_is_not_batched_past_the_default(tmp_path: Path, loaded: Load) -> None:
    assert loaded(write_picture_version(tmp_path, max_batch_size=512)).max_batch_size == 32


def failure(folder: VersionFolder, kind: type[LoadError], metrics: Metrics | None = None) -> str:
    """Load what must fail; nothing may be left behind."""
    metrics = metrics or Metrics("0", "test")
    threads = threading.active_count()
    with pytest.raises(kind) as caught:
        load(folder, SETTINGS, metrics)
    assert threading.active_count() == threads
    assert f'model="{folder.name}"' not in metrics.negotiate("")[0].decode()
    return str(caught.value)


def test_another_graph_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    message = failure(write_picture_version(tmp_path, model_digest="sha256:other"), GraphInvalid)
    assert message.startswith("model file has digest sha256:")
    assert message.endswith("the manifest says sha256:other")


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path, doubling())
    (folder.path / "model.onnx").write_bytes(b"no graph")
    assert "ONNX Runtime cannot open it" in failure(folder, GraphInvalid)


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    folder = write_picture_version(tmp_path)
    (folder.path / "manifest.json").write_text("{}")
    assert "missing key 'schema_version'" in failure(folder, ManifestInvalid)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"outputs": (TensorSpec("scores", "FP32", (-1, 3)),)},
            "outputs: the manifest says scores FP32 [-1, 3], the graph has probabilities FP32 [-1, 3]",
        ),
        (
            {"inputs": (TensorSpec("pictures", "UINT8", (-1, 2, 3, 1)),)},
            "inputs: the manifest says pictures UINT8 [-1, 2, 3, 1], the graph has images UINT8 [-1, 2, 3, 1]",
        ),
    ],
)
def test_a_manifest_that_contradicts_the_graph_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert failure(write_picture_version(tmp_path, **changes), ManifestInvalid) == message


def test_labels_must_be_as_many_as_classes(tmp_path: Path) -> None:
    folder = write_picture_version(tmp_path)
    (folder.path / "labels.txt").write_text("zero\none\n")
    message = failure(folder, ManifestInvalid)
    assert message == "labels.txt: has 2 labels, the output has 3 classes"


def test_missing_labels_are_named(tmp_path: Path) -> None:
    folder = write_picture_version(tmp_path)
    (folder.path / "labels.txt").unlink()
    assert "labels are not readable" in failure(folder, ManifestInvalid)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    folder = write_sentence_version(tmp_path)
    (folder.path / "tokenizer.json").unlink()
    assert "not readable as a tokenizer" in failure(folder, ManifestInvalid)


def test_a_published_version_needs_its_golden_vectors(tmp_path: Path) -> None:
    folder = write_picture_version(tmp_path)
    (folder.path / "golden.npz").unlink()
    assert "golden vectors are not readable" in failure(folder, ManifestInvalid)


def planted(place: str) -> Golden:
    """The golden vectors of the pictures with one difference planted."""
    golden = picture_golden()
    images, answers = golden.inputs[0].copy(), golden.outputs[0].copy()
    if place == "preprocessing":
        images[2, 0, 0, 0] ^= 3
    elif place == "answer":
        answers[1, 2] += 0.01
    else:
        answers = answers.astype(np.float32)[:, :2]
    return Golden(golden.raw, (images,), (answers,))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("preprocessing", "golden sample 2: preprocessing differs in 1 elements"),
        ("answer", "batch of 4: golden sample 1 differs by 0.01, tolerance 1e-05"),
        ("shape", "batch of 4: answer has shape (4, 3), expected (4, 2)"),
    ],
)
def test_a_golden_answer_that_is_not_reproduced_is_refused(tmp_path: Path, place: str, message: str) -> None:
    assert failure(write_picture_version(tmp_path, golden=planted(place)), GoldenMismatch) == message


def test_made_up_rows_that_do_not_run_are_no_error_and_a_batch_that_does_not_is_one(
    tmp_path: Path, loaded: Load, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    model = graph_model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [("x", TensorProto.FLOAT, ("N", "L"))],
        [("y", TensorProto.FLOAT, ("N", 7))],
        {"shape": np.array([-1, 7])},
    )
    servable = loaded(write_model(tmp_path, model))
    assert not caplog.records
    np.testing.assert_array_equal(*ask(servable, np.ones((1, 7), np.float32)), np.ones((1, 7)))
    with pytest.raises(AssertionError, match="INTERNAL"):
        ask(servable, np.ones((1, 5), np.float32))
    assert [record.message for record in caplog.records] == ["a batch failed"]
    assert "Reshape" in caplog.text, "why"
    assert capfd.readouterr().err == "", "the runtime says nothing by itself"


def test_golden_inputs_that_do_not_run_are_refused(tmp_path: Path) -> None:
    golden = picture_golden()
    wide = Golden(golden.raw, (golden.inputs[0].astype(np.int64),), golden.outputs)
    message = failure(write_picture_version(tmp_path, golden=wide), GoldenMismatch)
    assert message.startswith("batch of 4: the runtime failed on the golden inputs: ")
    assert "expected: (tensor(uint8))" in message, "why, as the runtime says"


def test_cuda_that_is_demanded_and_absent_is_no_cpu(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this runtime may have CUDA")
    folder = write_model(tmp_path, doubling())
    with pytest.raises(ProviderUnavailable, match="'cuda' was requested"):
        load(folder, dataclasses.replace(SETTINGS, device="cuda"), Metrics("0", "test"))


def test_a_datatype_that_the_protocol_lacks_is_refused(tmp_path: Path) -> None:
    tensors = [(name, TensorProto.FLOAT8E4M3FN, ("N",)) for name in ("x", "y")]
    model = graph_model([helper.make_node("Identity", ["x"], ["y"])], tensors[:1], tensors[1:])
    message = failure(write_model(tmp_path, model), GraphInvalid)
    assert "float8e4m3fn" in message


def test_a_graph_without_inputs_is_refused(tmp_path: Path) -> None:
    value = helper.make_tensor("v", TensorProto.FLOAT, (1,), [1.0])
    model = graph_model([helper.make_node("Constant", [], ["y"], value=value)], [], [("y", TensorProto.FLOAT, (1,))])
    assert "has no input" in failure(write_model(tmp_path, model), GraphNotRunnable)


def test_instances_share_the_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, loaded: Load) -> None:
    monkeypatch.setattr("service.repository.pricing.usable_cores", lambda: 6)
    assert loaded(write_model(tmp_path, doubling()), instances=0).batcher.instances == 1  # it costs next to nothing
    assert loaded(write_model(tmp_path, doubling(), "two"), instances=2).batcher.instances == 2


def test_requests_of_a_fixed_shape_share_one_group() -> None:
    servable = make_servable()
    assert servable.group_of([np.zeros((2, 2, 3, 1), np.uint8)]) is None


def test_free_dimensions_of_a_bare_graph_must_agree() -> None:
    servable = bare_servable(inputs=(TensorSpec("x", "FP32", (-1, -1)), TensorSpec("z", "FP32", (-1, 2))))
    first = servable.group_of([np.zeros((1, 3)), np.zeros((1, 2))])
    assert first == servable.group_of([np.zeros((5, 3)), np.zeros((5, 2))])
    assert first != servable.group_of([np.zeros((1, 4)), np.zeros((1, 2))])


def test_sentences_are_grouped_by_length_bucket(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    servable = make_servable(text_manifest(), version_dir=tmp_path)
    assert servable.group_of([np.zeros((4, 33), np.int64)]) == 64


def test_all_instances_have_their_threads_though_the_session_is_one(
    tmp_path: Path, loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    class Recording(OnnxBackend):
        def __init__(self, path: Path, device: str, threads: int, *options: Any) -> None:
            opened.append(threads)
            super().__init__(path, device, threads, *options)

    monkeypatch.setattr("service.repository.loading.OnnxBackend", Recording)
    loaded(write_model(tmp_path, doubling()), instances=2, intra_op_threads=3)
    assert opened == [5], "two callers and four workers"

"""ClassifyImages and ClassifySentences: each item has its own answer or its own error."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from PIL import Image

from service.golden import read_golden
from service.pb.convserve.classification.v1 import classification_pb2 as pb
from service.transport.calls import CLASSIFY_SENTENCES
from tests.integration import samples
from tests.integration.harness import DEADLINE_SECONDS, MODELS, ServerProcess, arrays_of, failure, infer_request
from tests.unit.service.samples import encoded

LENET = MODELS / "lenet5-mnist" / "1"
TEXTCNN = MODELS / "textcnn-mr" / "1"


def classify(server: ServerProcess, *images: bytes, **fields) -> pb.ClassifyImagesResponse:
    request = pb.ClassifyImagesRequest(model_name="lenet5-mnist", images=images, **fields)
    return server.client.classification.ClassifyImages(request, timeout=DEADLINE_SECONDS)


def read(server: ServerProcess, *sentences: str, **fields) -> pb.ClassifySentencesResponse:
    request = pb.ClassifySentencesRequest(model_name="textcnn-mr", sentences=sentences, **fields)
    return server.client.classification.ClassifySentences(request, timeout=DEADLINE_SECONDS)


def check_labels(result: pb.ClassificationResult, probabilities: np.ndarray, labels: list[str], k: int) -> None:
    scored = result.classification.scored_labels
    assert [entry.index for entry in scored] == np.argsort(-probabilities, kind="stable")[:k].tolist()
    assert [entry.label for entry in scored] == [labels[entry.index] for entry in scored]
    for entry in scored:
        assert entry.probability == pytest.approx(probabilities[entry.index], abs=1e-5)


@pytest.mark.parametrize(("top_k", "given"), [(0, 5), (1, 1), (3, 3), (10, 10), (1000, 10)])
def test_pictures_get_labels(server: ServerProcess, top_k: int, given: int):
    golden = read_golden(LENET / "golden.npz")
    response = classify(server, *golden.raw[:8], top_k=top_k, request_id="mine")
    assert (response.model_name, response.model_version, response.request_id) == ("lenet5-mnist", "1", "mine")
    assert not response.HasField("explanation")
    for result, probabilities in zip(response.results, golden.outputs[0][:8], strict=True):
        check_labels(result, probabilities, [str(digit) for digit in range(10)], given)


def test_sentences_get_labels(server: ServerProcess):
    golden = read_golden(TEXTCNN / "golden.npz")
    response = read(server, *(sentence.decode() for sentence in golden.raw[:8]))
    for result, probabilities in zip(response.results, golden.outputs[0][:8], strict=True):
        check_labels(result, probabilities, ["negative", "positive"], 2)


def test_more_items_than_a_batch_holds(server: ServerProcess):
    golden = read_golden(LENET / "golden.npz")
    chosen = [number % golden.count for number in range(150)]
    response = classify(server, *(golden.raw[number] for number in chosen), top_k=1)
    best = [result.classification.scored_labels[0].index for result in response.results]
    assert best == golden.outputs[0][chosen].argmax(axis=1).tolist()


def test_a_truncated_picture_among_ten_fails_alone(server: ServerProcess):
    whole = [samples.encode(samples.digit_one(), "JPEG", quality=quality) for quality in range(80, 90)]
    whole[6] = whole[6][: len(whole[6]) // 2]
    response = classify(server, *whole)
    failed = [result.HasField("error") for result in response.results]
    assert failed == [number == 6 for number in range(10)]
    assert response.results[6].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "truncated" in response.results[6].error.message
    assert all(result.classification.scored_labels for result in response.results if not result.HasField("error"))


def test_calls_that_come_together_get_what_they_get_alone(server: ServerProcess):
    """Damaged and good, large and small, in one burst; as bytes for ModelInfer and for ClassifyImages."""
    golden = read_golden(LENET / "golden.npz")
    small = [encoded(Image.fromarray(picture[..., 0]), "JPEG", quality=95) for picture in golden.inputs[0][:4]]
    large = encoded(Image.fromarray(golden.inputs[0][4][..., 0]).resize((300, 300)), "JPEG")
    items = [*small, large, small[0][:-60], b"broken", golden.raw[5]]

    def outcome(answer: grpc.Future) -> np.ndarray | str:
        error = answer.exception()
        return error.details() if error else arrays_of(answer.result())["probabilities"]

    def ask(item: bytes) -> grpc.Future:
        request = infer_request("lenet5-mnist", {"images": np.array([item], object)})
        return server.client.inference.ModelInfer.future(request, timeout=DEADLINE_SECONDS)

    def labels(answer: grpc.Future) -> list[object]:
        best = [result.classification.scored_labels[:1] for result in answer.result().results]
        return [
            [label[0].index for label in best if label],
            [result.error.message for result in answer.result().results],
        ]

    def ask_labels(*images: bytes) -> grpc.Future:
        request = pb.ClassifyImagesRequest(model_name="lenet5-mnist", images=images)
        return server.client.classification.ClassifyImages.future(request, timeout=DEADLINE_SECONDS)

    alone = [outcome(ask(item)) for item in items]
    assert [isinstance(found, str) for found in alone] == [False] * 5 + [True, True, False]
    alone_labels = labels(ask_labels(*items))
    asked = [(number % len(items), ask(items[number % len(items)]), ask_labels(*items)) for number in range(80)]
    for number, answer, answer_labels in asked:
        if isinstance(alone[number], str):
            assert outcome(answer) == alone[number]
        else:
            np.testing.assert_allclose(outcome(answer), alone[number], atol=1e-5)
        assert labels(answer_labels) == alone_labels


def test_a_call_whose_items_all_fail_is_answered(server: ServerProcess):
    response = classify(server, b"", b"no picture", b"\xff\xd8\xff", explain=True)
    assert [result.error.code for result in response.results] == [3, 3, 3]
    assert not response.HasField("explanation")  # nothing ran


@pytest.mark.parametrize("name", samples.odd_pictures())
def test_odd_pictures_are_read_right(server: ServerProcess, name: str):
    plain, odd = classify(server, samples.odd_pictures()["grey PNG"], samples.odd_pictures()[name], top_k=1).results
    assert not odd.HasField("error"), odd.error.message
    assert odd.classification.scored_labels[0].index == plain.classification.scored_labels[0].index
    assert odd.classification.scored_labels[0].probability == pytest.approx(
        plain.classification.scored_labels[0].probability, abs=0.05
    )


def test_a_picture_bomb_is_refused_by_its_header(server: ServerProcess):
    bomb = samples.bomb()
    assert len(bomb) < 400_000
    before = server.metric("process_resident_memory_bytes")
    good, bad = classify(server, samples.encode(samples.digit_one()), bomb).results
    assert not good.HasField("error")
    assert bad.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "15000 x 14000 = 210000000 pixels, expected at most 50000000" in bad.error.message
    assert server.metric("process_resident_memory_bytes") - before < 100e6


def test_hard_sentences_fail_alone(server: ServerProcess):
    fine, empty, blank, long, longer = read(server, "a fine film", "", " \n", "word " * 10_000, "x" * 100_000).results
    assert fine.classification.scored_labels
    assert [result.error.code for result in (empty, blank, long, longer)] == [3, 3, 3, 3]
    assert "at least one word" in empty.error.message
    assert "expected at most 32768" in long.error.message


def test_a_sentence_of_exactly_the_limit_is_answered(server: ServerProcess):
    longest, one_more = read(server, "word " * 512, "word " * 513).results
    assert longest.classification.scored_labels
    assert "513 tokens, expected at most 512" in one_more.error.message


def test_invalid_utf8_fails_the_call(server: ServerProcess):
    # ClassifySentencesRequest by hand: model_name (field 1), one sentence (field 3) of two wrong bytes.
    message = b"\x0a\x0atextcnn-mr" + b"\x1a\x02\xff\xfe"
    call = server.client.channel.unary_unary(CLASSIFY_SENTENCES)
    failed = failure(call, message, timeout=DEADLINE_SECONDS)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "UTF-8" in failed.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_name": "lenet5-mnist"}, "0 items, expected 1 to 1024"),
        ({"model_name": "lenet5-mnist", "images": [b""] * 1025}, "1025 items"),
        ({"model_name": "lenet5-mnist", "images": [b""], "top_k": -1}, "top_k: expected 0 or more, got -1"),
        ({"model_name": "textcnn-mr", "images": [b""]}, "task sentence-classification"),
        ({"model_name": "add-sub", "images": [b""]}, "task tensor"),
    ],
)
def test_wrong_calls_name_what_was_expected(server: ServerProcess, fields: dict, words: str):
    failed = failure(server.client.classification.ClassifyImages, pb.ClassifyImagesRequest(**fields))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert words in failed.message


def test_a_classification_explains_itself(server: ServerProcess):
    told = classify(server, *[samples.encode(samples.digit_one())] * 3, explain=True).explanation
    assert told.execution_provider == "CPUExecutionProvider"
    assert 1 <= told.batch_size <= told.bucket
    assert told.decode_seconds > 0
    assert told.infer_seconds > 0
    assert told.model_digest.startswith("sha256:")


def test_describe_model_tells_the_manifests_figures(server: ServerProcess):
    described = server.client.classification.DescribeModel(pb.DescribeModelRequest(model_name="lenet5-mnist"))
    assert described.verified
    assert described.golden_check.passed
    assert described.task == "image-classification"
    assert list(described.labels) == [str(digit) for digit in range(10)]
    assert described.accuracies[0].metric == "top1"
    assert described.accuracies[0].count == 10_000
    assert described.provenance.architecture == "lenet5"
    bare = server.client.classification.DescribeModel(pb.DescribeModelRequest(model_name="fixed"))
    assert not bare.verified
    assert bare.max_batch_size == 0
    assert list(bare.inputs[0].shape) == [2, 3]
    assert not bare.HasField("golden_check")


def test_the_client_that_the_command_line_uses(server: ServerProcess, capsys: pytest.CaptureFixture, tmp_path):
    from service import cli

    (tmp_path / "one.png").write_bytes(samples.encode(samples.digit_one()))
    (tmp_path / "none.png").write_bytes(b"no picture")
    at = ["classify", "--server", f"127.0.0.1:{server.grpc_port}", "--model"]
    assert cli.main([*at, "lenet5-mnist", "--top-k", "1", str(tmp_path / "one.png")]) == 0
    assert "lenet5-mnist version 1 on CPUExecutionProvider, verified" in capsys.readouterr().out
    assert cli.main([*at, "lenet5-mnist", str(tmp_path / "one.png"), str(tmp_path / "none.png")]) == 1
    assert "unknown format" in capsys.readouterr().out
    assert cli.main([*at, "textcnn-mr", "--explain", "--text", "a fine film"]) == 0
    assert "infer_seconds" in capsys.readouterr().out
    assert cli.main([*at, "nothing", "--text", "a fine film"]) == 1
    assert "NOT_FOUND" in capsys.readouterr().err
    assert cli.main([*at, "lenet5-mnist", str(tmp_path / "missing.png")]) == 2

"""Calls of NVIDIA's own client, each checked; run by test_tritonclient.py in another process.

Its descriptors of package ``inference`` and ours cannot live in one process.

Tells of each call by its name and, if it went wrong, the traceback, as JSON. Each has a client of its own.

    python triton_calls.py NAME,NAME… PORT MODELS
    python triton_calls.py secured PORT MODELS CA_FILE TOKEN
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import np_to_triton_dtype

PORT, MODELS = sys.argv[2], Path(sys.argv[3])
ADDRESS = f"127.0.0.1:{PORT}"
WAIT_SECONDS = 60
LENET, TEXTCNN = "lenet5-mnist", "textcnn-mr"


class Golden:
    """Golden vectors of a model, read without the server's code."""

    def __init__(self, model: str) -> None:
        with np.load(MODELS / model / "1" / "golden.npz") as archive:
            self.inputs, self.outputs = archive["input_0"], archive["output_0"]
            ends = np.cumsum(archive["raw_sizes"]).tolist()
            blob = archive["raw_bytes"].tobytes()
        self.raw = [blob[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def as_input(name: str, array: np.ndarray) -> triton.InferInput:
    tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array)
    return tensor


def check(answer: triton.InferResult, expected: np.ndarray) -> None:
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, atol=1e-5)


def raw_tensors(client: triton.InferenceServerClient) -> None:
    for model, name in ((LENET, "images"), (TEXTCNN, "ids")):
        golden = Golden(model)
        answer = client.infer(model, [as_input(name, golden.inputs[:8])], model_version="1", request_id="mine")
        check(answer, golden.outputs[:8])
        assert answer.get_response().id == "mine"


def pictures_and_sentences(client: triton.InferenceServerClient) -> None:
    for model, name in ((LENET, "images"), (TEXTCNN, "ids")):
        golden = Golden(model)
        items = np.array(golden.raw[:8], dtype=np.object_)
        check(client.infer(model, [as_input(name, items)]), golden.outputs[:8])
        check(client.infer(model, [as_input(name, items.reshape(8, 1))]), golden.outputs[:8])


def callbacks(client: triton.InferenceServerClient) -> None:
    golden = Golden(LENET)
    answers: dict[int, object] = {}
    done = threading.Event()

    def keep(number: int) -> Callable[..., None]:
        def callback(result: object, error: object) -> None:
            answers[number] = error or result
            if len(answers) == 16:
                done.set()

        return callback

    for number in range(16):
        client.async_infer(LENET, [as_input("images", golden.inputs[number : number + 1])], keep(number))
    assert done.wait(WAIT_SECONDS)
    for number in range(16):
        answer = answers[number]
        assert isinstance(answer, triton.InferResult), answer
        check(answer, golden.outputs[number : number + 1])


def classification(client: triton.InferenceServerClient) -> None:
    golden = Golden(LENET)
    outputs = [triton.InferRequestedOutput("probabilities", class_count=3)]
    answer = client.infer(LENET, [as_input("images", golden.inputs[:4])], outputs=outputs)
    table = answer.as_numpy("probabilities")
    assert table.shape == (4, 3)
    for row, probabilities in zip(table, golden.outputs, strict=False):
        value, index, label = row[0].decode().split(":")
        assert int(index) == probabilities.argmax()
        assert label == index
        assert abs(float(value) - probabilities.max()) < 1e-5


def description(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(LENET)
    assert client.is_model_ready(TEXTCNN, "1")
    assert client.get_server_metadata().name == "convserve"
    metadata = client.get_model_metadata(LENET, as_json=True)
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": ["-1", "28", "28", "1"]}]
    config = client.get_model_config(LENET).config
    assert (config.name, config.max_batch_size, config.backend) == (LENET, 32, "onnxruntime")
    assert list(config.input[0].dims) == [28, 28, 1]
    before = client.get_inference_statistics(LENET, "1").model_stats[0]
    client.infer(LENET, [as_input("images", Golden(LENET).inputs[:4])])
    after = client.get_inference_statistics(LENET, "1").model_stats[0]
    assert after.inference_count - before.inference_count == 4
    assert after.inference_stats.queue.count > before.inference_stats.queue.count
    assert len(client.get_inference_statistics().model_stats) >= 2


def errors(client: triton.InferenceServerClient) -> None:
    images = as_input("images", Golden(LENET).inputs[:1])
    for call, status in (
        (lambda: client.infer("nothing", [images]), "NOT_FOUND"),
        (lambda: client.infer(LENET, [images], model_version="9"), "NOT_FOUND"),
        (lambda: client.infer(LENET, [as_input("pictures", Golden(LENET).inputs[:1])]), "INVALID_ARGUMENT"),
        (lambda: client.get_model_config("nothing"), "NOT_FOUND"),
    ):
        with pytest.raises(triton.InferenceServerException) as raised:
            call()
        assert raised.value.status() == f"StatusCode.{status}", raised.value


def one_client_for_many_calls(client: triton.InferenceServerClient) -> None:
    """The client's own timeout and compression, and growing batches over one connection."""
    golden = Golden(LENET)
    for size in (1, 2, 3, 17, 32):
        rows = np.arange(size) % len(golden.inputs)
        answer = client.infer(
            LENET, [as_input("images", golden.inputs[rows])], client_timeout=WAIT_SECONDS, compression_algorithm="gzip"
        )
        check(answer, golden.outputs[rows])


def image_client_rules(client: triton.InferenceServerClient) -> None:
    """What NVIDIA's image_client asks of a model before it sends a picture, and the request that it sends."""
    metadata = client.get_model_metadata(LENET)
    config = client.get_model_config(LENET).config
    (input_metadata,), (output_metadata,) = metadata.inputs, metadata.outputs
    (input_config,) = config.input
    assert output_metadata.datatype == "FP32"
    assert config.max_batch_size > 0
    assert [size for size in list(output_metadata.shape)[1:] if size > 1] == [10], "a vector beside the batch"
    assert len(input_metadata.shape) == 4
    assert input_config.Format.Name(input_config.format) == "FORMAT_NHWC"
    height, width, channels = input_config.dims
    assert list(input_metadata.shape) == [-1, height, width, channels]
    golden = Golden(LENET)
    picture = triton.InferInput(input_metadata.name, [1, height, width, channels], input_metadata.datatype)
    picture.set_data_from_numpy(golden.inputs[:1])
    wanted = triton.InferRequestedOutput(output_metadata.name, class_count=1)
    answer = client.infer(LENET, [picture], outputs=[wanted]).as_numpy(output_metadata.name)
    assert len(answer[0]) == 1
    assert answer[0][0].decode().split(":")[1] == str(golden.outputs[0].argmax())


def streaming(client: triton.InferenceServerClient) -> None:
    golden = Golden(LENET)
    answers: queue.Queue[tuple[triton.InferResult | None, Exception | None]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(100):
        row = number % len(golden.inputs)
        client.async_stream_infer(LENET, [as_input("images", golden.inputs[row : row + 1])], request_id=str(number))
    client.async_stream_infer("no-such-model", [as_input("images", golden.inputs[:1])], request_id="unknown")
    results, errors = [], []
    for _ in range(101):
        result, error = answers.get(timeout=WAIT_SECONDS)
        (errors if error else results).append(error or result)
    client.stop_stream()
    assert len(errors) == 1
    assert "no-such-model" in str(errors[0])
    assert {result.get_response().id for result in results} == {str(number) for number in range(100)}
    for result in results:
        row = int(result.get_response().id) % len(golden.inputs)
        check(result, golden.outputs[row : row + 1])


def system_shared_memory(client: triton.InferenceServerClient) -> None:
    golden = Golden(LENET)
    pictures, size = golden.inputs[:4], golden.outputs[:4].nbytes
    keys = [f"/convserve-interop-{os.getpid()}-{name}" for name in ("in", "out")]  # of this run of the tests alone
    inside = shm.create_shared_memory_region("pictures", keys[0], pictures.nbytes)
    outside = shm.create_shared_memory_region("answers", keys[1], size)
    try:
        client.unregister_system_shared_memory()  # both, as NVIDIA's examples of this kind of memory begin
        client.unregister_cuda_shared_memory()
        shm.set_shared_memory_region(inside, [pictures])
        client.register_system_shared_memory("pictures", keys[0], pictures.nbytes)
        client.register_system_shared_memory("answers", keys[1], size)
        assert set(client.get_system_shared_memory_status().regions) >= {"pictures", "answers"}
        images = triton.InferInput("images", pictures.shape, "UINT8")
        images.set_shared_memory("pictures", pictures.nbytes)
        wanted = triton.InferRequestedOutput("probabilities")
        wanted.set_shared_memory("answers", size)
        answer = client.infer(LENET, [images], outputs=[wanted])
        output = answer.get_output("probabilities")
        got = shm.get_contents_as_numpy(outside, np.float32, list(output.shape))
        np.testing.assert_allclose(got, golden.outputs[:4], atol=1e-5)
    finally:
        client.unregister_system_shared_memory("pictures")
        client.unregister_system_shared_memory("answers")
        shm.destroy_shared_memory_region(inside)
        shm.destroy_shared_memory_region(outside)


def model_control(client: triton.InferenceServerClient) -> None:
    """Against a server in mode explicit that has loaded nothing."""
    states = {entry.name: entry.state for entry in client.get_model_repository_index().models}
    assert states[LENET] == "UNAVAILABLE"
    client.load_model(LENET)
    assert client.is_model_ready(LENET)
    check(client.infer(LENET, [as_input("images", Golden(LENET).inputs[:1])]), Golden(LENET).outputs[:1])
    client.unload_model(LENET)
    assert not client.is_model_ready(LENET)
    with pytest.raises(triton.InferenceServerException, match="NOT_FOUND"):
        client.load_model("no-such-model")


def logging_settings(client: triton.InferenceServerClient) -> None:
    before = client.get_log_settings(as_json=True)["settings"]
    assert before["log_info"] == {"bool_param": True}
    after = client.update_log_settings({"log_verbose_level": 1}, as_json=True)["settings"]
    assert after["log_verbose_level"] == {"uint32_param": 1}
    client.update_log_settings({"log_verbose_level": 0})


async def asynchronous() -> None:
    golden = Golden(TEXTCNN)
    async with triton_aio.InferenceServerClient(ADDRESS) as client:
        assert await client.is_server_ready()
        assert (await client.get_model_metadata(TEXTCNN)).inputs[0].datatype == "INT64"
        calls = [
            client.infer(TEXTCNN, [as_input("ids", np.array([sentence], dtype=np.object_))])
            for sentence in golden.raw[:16]
        ]
        for answer, expected in zip(await asyncio.gather(*calls), golden.outputs, strict=False):
            check(answer, expected[np.newaxis])


async def asynchronous_stream() -> None:
    golden = Golden(LENET)

    async def requests() -> AsyncIterator[dict[str, object]]:
        for number, picture in enumerate(golden.inputs):
            inputs = [as_input("images", picture[np.newaxis])]
            yield {"model_name": LENET, "inputs": inputs, "request_id": str(number)}

    seen = 0
    async with triton_aio.InferenceServerClient(ADDRESS) as client:
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            row = int(result.get_response().id)
            check(result, golden.outputs[row : row + 1])
            seen += 1
    assert seen == len(golden.inputs)


SYNCHRONOUS = {
    call.__name__: call
    for call in (
        raw_tensors,
        pictures_and_sentences,
        callbacks,
        classification,
        description,
        errors,
        one_client_for_many_calls,
        image_client_rules,
        streaming,
        system_shared_memory,
        model_control,
        logging_settings,
    )
}


async def secured() -> None:
    """As docs/operations.md has it: TLS, and a token in the headers of each call; both clients."""
    ca_file, token = sys.argv[4:]
    golden, headers = Golden(LENET), {"authorization": f"Bearer {token}"}
    images = as_input("images", golden.inputs[:2])
    with triton.InferenceServerClient(ADDRESS, ssl=True, root_certificates=ca_file) as client:
        check(client.infer(LENET, [images], headers=headers), golden.outputs[:2])
        with pytest.raises(triton.InferenceServerException, match="UNAUTHENTICATED"):
            client.infer(LENET, [images])
    async with triton_aio.InferenceServerClient(ADDRESS, ssl=True, root_certificates=ca_file) as client:
        check(await client.infer(LENET, [images], headers=headers), golden.outputs[:2])


ASYNCHRONOUS = {call.__name__: call for call in (asynchronous, asynchronous_stream, secured)}


def make(name: str) -> str:
    """Make one call; return the traceback, or nothing."""
    try:
        if name in ASYNCHRONOUS:
            asyncio.run(ASYNCHRONOUS[name]())
        else:
            with triton.InferenceServerClient(ADDRESS) as connected:
                SYNCHRONOUS[name](connected)
    except BaseException:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    for wanted in sys.argv[1].split(","):
        print(json.dumps([wanted, make(wanted)]), flush=True)

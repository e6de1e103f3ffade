from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bench.errors import PeerFailed
from bench.peers import PEERS
from bench.peers.cases import open_case
from service.pb.inference import grpc_service_pb2 as pb


def test_a_bundled_model_is_asked_its_golden_rows():
    case = open_case("lenet5-mnist", None)
    assert case.file.is_file()
    assert len(case.rows) == 8
    assert {(row.shape, row.dtype) for row in case.rows} == {(case.row_shape, np.dtype(np.uint8))}
    request = pb.ModelInferRequest.FromString(PEERS["kserve"].request(case, case.rows[0]))
    assert (request.model_name, request.inputs[0].datatype, [*request.inputs[0].shape]) == (
        "lenet5-mnist", "UINT8", [1, 28, 28, 1],
    )  # fmt: skip
    assert request.raw_input_contents[0] == case.rows[0].tobytes()


def test_pictures_are_sent_as_files():
    tensors, case = open_case("resnet20-cifar10", None), open_case("resnet20-cifar10-jpeg", None)
    assert (case.name, case.row_shape, case.encoded) == ("resnet20-cifar10", (32, 32, 3), True)
    for row, tensor in zip(case.rows, tensors.rows, strict=True):
        with Image.open(io.BytesIO(row.tobytes())) as picture:
            assert picture.format == "JPEG"
            assert np.abs(np.asarray(picture, np.float32) - tensor).mean() < 10
    assert PEERS["mosec"].request(case, case.rows[0]) == case.rows[0].tobytes()


@pytest.mark.parametrize(("peer", "shape"), [("convserve", [1]), ("triton", [1, 1])])
def test_a_picture_is_bytes_in_the_protocol(peer: str, shape: list[int]):
    case = open_case("lenet5-mnist-jpeg", None)
    request = pb.ModelInferRequest.FromString(PEERS[peer].request(case, case.rows[0]))
    assert (request.inputs[0].datatype, [*request.inputs[0].shape]) == ("BYTES", shape)
    raw = request.raw_input_contents[0]
    assert int.from_bytes(raw[:4], "little") == len(raw) - 4
    assert raw[4:] == case.rows[0].tobytes()


def test_who_takes_no_pictures_says_so():
    case = open_case("lenet5-mnist-jpeg", None)
    with pytest.raises(PeerFailed, match="only with tensors"):
        PEERS["mlserver"].request(case, case.rows[0])


def test_what_has_to_be_made_wants_a_folder():
    with pytest.raises(PeerFailed, match="--work DIR"):
        open_case("resnet50", None)

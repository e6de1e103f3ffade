"""Templates: a message that fits one means what it would mean if it were parsed, and no other fits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.pb.inference import grpc_service_pb2 as pb
from service.tensors import DTYPES, TensorSpec
from service.transport.replies import InferForm
from service.transport.shared_memory import SharedMemory
from service.transport.template import (
    _MAX_A_LENGTH,
    _MAX_CONSTANT_BYTES,
    _MAX_LENGTHS,
    _MAX_OF_ITEMS,
    Template,
    Templates,
    template_of,
)
from service.transport.tensor_codec import decode_inputs
from tests.unit.service.samples import bare_servable, make_servable

SHARED_MEMORY = SharedMemory()
NUMBERS = sorted(set(DTYPES) - {"BYTES", "BOOL"})
SHAPE = st.lists(st.integers(1, 3), min_size=1, max_size=3)
TENSORS = st.lists(st.tuples(st.sampled_from(NUMBERS), SHAPE), min_size=1, max_size=3)


def message(
    tensors: list[tuple[str, list[int]]], filling: int, order: list[int] | None = None, **fields: object
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="bare", **fields)
    for number in order or range(len(tensors)):
        datatype, shape = tensors[number]
        request.inputs.add(name=f"x{number}", datatype=datatype, shape=shape)
        size = math.prod(shape) * DTYPES[datatype].itemsize
        request.raw_input_contents.append(bytes((filling + place) % 2 for place in range(size)))
    return request


def learned(request: pb.ModelInferRequest, tensors: list[tuple[str, list[int]]], **changes: object) -> Template | None:
    inputs = tuple(
        TensorSpec(f"x{number}", datatype, (-1, *shape[1:])) for number, (datatype, shape) in enumerate(tensors)
    )
    servable = bare_servable(inputs=inputs, **changes)
    form = InferForm(servable, [])
    arrays = decode_inputs(request, SHARED_MEMORY, lambda forms: None)
    return template_of(request.SerializeToString(), request, arrays, form, math.inf, 0)


@given(TENSORS, st.data())
def test_a_message_that_fits_means_what_parsing_says(tensors: list[tuple[str, list[int]]], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(tensors))))
    size = data.draw(st.integers(0, 6))
    identities = st.lists(st.sampled_from(["ab", "é"]), min_size=size, max_size=size).map("".join)

    first, second = data.draw(identities), data.draw(identities)
    template = learned(message(tensors, 0, order, id=first), tensors)
    assert template is not None
    other = message(tensors, 1, order, id=second)
    payload = other.SerializeToString()
    assert template.fits(payload)
    assert template.request_id(payload) == second
    expected = decode_inputs(other, SHARED_MEMORY, lambda forms: None)
    for number, array in enumerate(template.inputs(payload)):
        assert array.dtype == expected[f"x{number}"].dtype
        assert array.shape == expected[f"x{number}"].shape
        assert array.tobytes() == expected[f"x{number}"].tobytes()


@given(TENSORS, st.data())
def test_a_message_that_differs_in_anything_else_does_not_fit(
    tensors: list[tuple[str, list[int]]], data: st.DataObject
) -> None:
    request = message(tensors, 0, id="id")
    payload = bytearray(request.SerializeToString())
    template = learned(request, tensors)
    assert template is not None
    places = [start + place for start, constant in template.constants for place in range(len(constant))]
    payload[data.draw(st.sampled_from(places))] ^= data.draw(st.integers(1, 255))
    assert not template.fits(bytes(payload))


def test_every_byte_is_constant_or_in_a_hole() -> None:
    tensors = [("FP32", [1, 2]), ("INT64", [1])]
    request = message(tensors, 0, id="id", model_version="1")
    payload = request.SerializeToString()
    template = learned(request, tensors)
    assert template is not None
    assert template.identity is not None
    constant = sum(len(part) for _, part in template.constants)
    assert constant + len(payload[template.identity]) + 8 + 8 == len(payload)


def test_without_a_batch_axis_the_graphs_is_added() -> None:
    request = pb.ModelInferRequest(model_name="bare")
    request.inputs.add(name="x0", datatype="UINT8", shape=[2, 3])
    request.raw_input_contents.append(bytes(6))
    template = learned(request, [("UINT8", [1, 2, 3])], batched=False)
    assert template is not None
    assert [array.shape for array in template.inputs(request.SerializeToString())] == [(1, 2, 3)]


PICTURES = make_servable()


def pictures(items: list[bytes], *, column: bool = False, **fields: object) -> pb.ModelInferRequest:
    """Ask for encoded pictures."""
    request = pb.ModelInferRequest(model_name="pictures", **fields)
    request.inputs.add(name="images", datatype="BYTES", shape=[len(items), 1] if column else [len(items)])
    request.raw_input_contents.append(b"".join(len(item).to_bytes(4, "little") + item for item in items))
    return request


def learned_of_items(request: pb.ModelInferRequest, payload: bytes | None = None) -> Template | None:
    arrays = decode_inputs(request, SHARED_MEMORY, lambda forms: None)
    return template_of(payload or request.SerializeToString(), request, arrays, InferForm(PICTURES, []), math.inf, 0)


@given(st.data())
def test_items_of_other_lengths_fit(data: st.DataObject) -> None:
    count, column = data.draw(st.integers(1, 4)), data.draw(st.booleans())
    lists = st.lists(st.integers(0, 300).map(bytes), min_size=count, max_size=count)
    identity, other = (data.draw(st.text("ab", min_size=3, max_size=3)) for _ in range(2))
    template = learned_of_items(pictures(data.draw(lists), column=column, id=identity))
    assert template is not None
    items = data.draw(lists)
    payload = pictures(items, column=column, id=other).SerializeToString()
    assert template.fits(payload)
    assert template.request_id(payload) == other
    assert template.encoded_items(payload) == items
    templates = Templates()
    templates.keep(payload, template)
    assert templates.find(payload) is template


@pytest.mark.parametrize("size", [127, 128, 16384])
def test_items_of_any_length_teach_where_items_are(size: int) -> None:
    """The bytes of a length may be all zeros but for the bit that says that another one follows."""
    template = learned_of_items(pictures([bytes(size - 4)]))
    assert template is not None
    assert template.encoded_items(pictures([b"abc"]).SerializeToString()) == [b"abc"]


@given(st.data())
def test_a_message_of_items_that_differs_does_not_fit(data: st.DataObject) -> None:
    request = pictures([b"abc"])
    template = learned_of_items(request)
    assert template is not None
    payload = request.SerializeToString()
    for other in (
        pictures([b"abc"], model_version="1"),
        pictures([b"abc"], id="x"),
        pictures([b"abc", b""]),
        pictures([b"abc"], column=True),
    ):
        assert not template.fits(other.SerializeToString())
    assert not template.fits(payload + pb.ModelInferRequest(id="x").SerializeToString())
    assert not template.fits(payload[: data.draw(st.integers(0, len(payload) - 1))])


def test_items_whose_lengths_do_not_add_up_are_refused() -> None:
    template = learned_of_items(pictures([b"abc"]))
    assert template is not None
    payload = pictures([b"abc"]).SerializeToString().replace(b"\x03\0\0\0", b"\x02\0\0\0")
    assert template.fits(payload)
    with pytest.raises(InvalidInput, match="1 bytes are left after 1 elements"):
        template.encoded_items(payload)


class CountedReads(bytes):
    """A message that counts how often one of its bytes is looked at."""

    reads = 0

    def __getitem__(self, place: Any) -> Any:
        self.reads += 1
        return super().__getitem__(place)


def test_a_length_that_never_ends_is_soon_given_up() -> None:
    request = pictures([b"abc"])
    template = learned_of_items(request)
    assert template is not None
    payload = CountedReads(request.SerializeToString()[: template.items_at] + b"\xff" * 1000)
    assert not template.fits(payload)
    assert 0 < payload.reads <= 10


def test_items_before_the_end_of_a_message_have_no_template() -> None:
    request = pictures([b"abc"])
    payload = request.SerializeToString() + pb.ModelInferRequest(id="x").SerializeToString()
    assert learned_of_items(pb.ModelInferRequest.FromString(payload), payload) is None


def test_what_is_kept_of_items_is_bounded() -> None:
    templates = Templates()
    for number in range(3 * _MAX_OF_ITEMS):
        request = pictures([b"abc"], model_version=str(number))
        template = learned_of_items(request)
        assert template is not None
        for _ in range(2):
            templates.keep(request.SerializeToString(), template)
        assert templates.find(request.SerializeToString()) is template
    assert len(templates._of_items) == _MAX_OF_ITEMS
    assert not templates._by_length


def test_what_is_no_plain_tensor_has_no_template() -> None:
    sentences = pb.ModelInferRequest(model_name="bare")
    sentences.inputs.add(name="x0", datatype="BYTES", shape=[1])
    sentences.raw_input_contents.append(b"\x01\0\0\0a")
    typed = pb.ModelInferRequest(model_name="bare")
    typed.inputs.add(name="x0", datatype="INT8", shape=[1]).contents.int_contents.append(1)
    assert learned(sentences, [("BYTES", [1])]) is None
    assert learned(typed, [("INT8", [1])]) is None
    assert learned(message([("BOOL", [2])], 0), [("BOOL", [2])]) is None  # its bytes are looked at each time
    beyond = message([("INT8", [1]), ("INT8", [1])], 0)
    assert learned(beyond, [("INT8", [1])]) is None


def test_an_id_given_twice_has_no_template() -> None:
    tensors = [("INT8", [1])]
    payload = message(tensors, 0, id="a").SerializeToString() + pb.ModelInferRequest(id="b").SerializeToString()
    request = pb.ModelInferRequest.FromString(payload)
    form = InferForm(bare_servable(inputs=(TensorSpec("x0", "INT8", (-1,)),)), [])
    assert (
        template_of(payload, request, decode_inputs(request, SHARED_MEMORY, lambda forms: None), form, math.inf, 0)
        is None
    )


def test_the_newest_is_found_and_replaces_its_like() -> None:
    templates = Templates()
    tensors = [("INT8", [1])]
    payload = message(tensors, 0).SerializeToString()
    assert templates.find(payload) is None
    for _ in range(2):
        newest = learned(message(tensors, 0), tensors)
        assert newest is not None
        templates.keep(payload, newest)
        assert templates.find(payload) is newest
    assert len(templates._by_length[len(payload)]) == 1


def kept(of_items: bool, templates: Templates, *versions: str) -> list[tuple[bytes, Template]]:
    """Keep templates of messages that ask for these versions of a model of tensors or of pictures."""
    found = []
    for version in versions:
        tensors = [("INT8", [1])]
        request = pictures([b"abc"], model_version=version) if of_items else message(tensors, 0, model_version=version)
        template = learned_of_items(request) if of_items else learned(request, tensors)
        assert template is not None
        templates.keep(request.SerializeToString(), template)
        found.append((request.SerializeToString(), template))
    return found


@pytest.mark.parametrize("of_items", [False, True])
def test_of_several_the_one_that_says_the_same_is_found(of_items: bool) -> None:
    templates = Templates()
    several = kept(of_items, templates, "1", "2", "333")
    for payload, template in several:
        assert templates.find(payload) is template
    ((unlike, _),) = kept(of_items, Templates(), "4")
    assert len(unlike) == len(several[0][0])
    assert templates.find(unlike) is None


def test_what_was_replaced_does_not_come_back_when_its_successor_is_forgotten() -> None:
    templates = Templates()
    _, (payload, newest) = kept(False, templates, "1", "1")
    templates.forget(newest.form.servable)
    assert templates.find(payload) is None


@pytest.mark.parametrize("of_items", [False, True])
def test_what_was_for_a_servable_is_forgotten_with_it_and_nothing_else(of_items: bool) -> None:
    templates = Templates()
    ((leaving, template),) = kept(of_items, templates, "1")
    ((staying, other),) = kept(not of_items, templates, "2")
    templates.forget(template.form.servable)
    assert templates.find(leaving) is None
    assert templates.find(staying) is other


# Fields of protocols to come: number 99, of each wire type.
UNKNOWN = {"varint": b"\x98\x06\xac\x02", "fixed64": b"\x99\x06" + bytes(8), "fixed32": b"\x9d\x06" + bytes(4)}


@pytest.mark.parametrize("field", UNKNOWN.values(), ids=UNKNOWN)
@pytest.mark.parametrize("first", [False, True])
def test_fields_that_nobody_knows_are_passed_over(field: bytes, first: bool) -> None:
    tensors = [("INT8", [3])]
    request = message(tensors, 0, id="ab")
    known = request.SerializeToString()
    payload = field + known if first else known + field
    form = InferForm(bare_servable(inputs=(TensorSpec("x0", "INT8", (-1,)),)), [])
    template = template_of(payload, request, {"x0": np.zeros(3, np.int8)}, form, math.inf, 0)
    assert template is not None
    assert template.fits(payload)
    assert template.request_id(payload) == "ab"
    assert template.inputs(payload)[0].tolist() == [0, 1, 0]


def test_groups_which_are_uncommon_have_no_template() -> None:
    request = message([("INT8", [1])], 0)
    payload = b"\x9b\x06\x9c\x06" + request.SerializeToString()
    form = InferForm(bare_servable(inputs=(TensorSpec("x0", "INT8", (-1,)),)), [])
    assert template_of(payload, request, {"x0": np.zeros(1, np.int8)}, form, math.inf, 0) is None


def test_an_id_that_is_not_utf8_is_damaged() -> None:
    tensors = [("INT8", [1])]
    request = message(tensors, 0, id="ab")
    template = learned(request, tensors)
    assert template is not None
    with pytest.raises(DecodeError):
        template.request_id(request.SerializeToString().replace(b"ab", b"\xff\xfe"))


def test_what_is_kept_is_bounded() -> None:
    templates = Templates()
    for number in range(3 * _MAX_LENGTHS):
        for name in "abcdefghijkl":
            tensors = [("INT8", [1 + number])]
            request = message(tensors, 0, model_version=name)
            template = learned(request, tensors)
            assert template is not None
            templates.keep(request.SerializeToString(), template)
            if number > 3:
                break
        assert len(templates._by_length) <= _MAX_LENGTHS
    assert max(map(len, templates._by_length.values())) <= _MAX_A_LENGTH


@pytest.mark.parametrize("where", ["its parameters", "an input's parameters", "fields that nobody knows"])
def test_a_message_that_says_much_besides_has_no_template(where: str) -> None:
    """It would be kept, and there may be thousands of them."""
    tensors = [("UINT8", [1, 2])]
    request = message(tensors, 0)
    assert learned(request, tensors) is not None
    if where == "its parameters":
        request.parameters["x"].string_param = "x" * (_MAX_CONSTANT_BYTES + 1)
    elif where == "an input's parameters":
        request.inputs[0].parameters["x"].string_param = "x" * (_MAX_CONSTANT_BYTES + 1)
    else:
        request.MergeFromString(b"\xc0\x3e\x01" * _MAX_CONSTANT_BYTES)
    assert learned(request, tensors) is None


def test_large_tensors_and_ids_are_no_reason_against_a_template() -> None:
    tensors = [("UINT8", [1, 2 * _MAX_CONSTANT_BYTES])]
    assert learned(message(tensors, 0, id="x" * 2 * _MAX_CONSTANT_BYTES), tensors) is not None


def test_fields_without_end_are_soon_given_up() -> None:
    tensors = [("UINT8", [1, 2])]
    request = message(tensors, 0)
    payload = CountedReads(request.SerializeToString() + b"\xc0\x3e\x01" * 100_000)
    payload.reads = 0
    arrays = decode_inputs(request, SHARED_MEMORY, lambda forms: None)
    assert template_of(payload, request, arrays, InferForm(bare_servable(), []), math.inf, 0) is None
    assert payload.reads < 2 * _MAX_CONSTANT_BYTES

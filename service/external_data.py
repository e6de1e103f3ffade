"""Finds the files beside model.onnx that hold its weights: ONNX's external data, which its digest does not cover.

Reads the message itself (onnx.proto): the runtime does not report these files, and the server has no package for ONNX.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from service.errors import GraphInvalid
from service.fields import DELIMITED, VARINT, fields, read_varint

# For each message, the fields that lead to tensors: the field's number and the message that it holds.
_WAYS: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_ENTRY, _DATA_LOCATION, _EXTERNAL = 13, 14, 1
_KEY, _VALUE = 1, 2
_MOST_DEEP = 200  # graphs within graphs; the runtime's own parser takes fewer


def external_files(model: Path) -> list[str]:
    """Return the files that hold weights of a model, as the model names them, sorted.

    Raises:
        GraphInvalid: The file is no ONNX model.
    """
    try:
        return sorted(set(_locations(memoryview(model.read_bytes()), "Model", 0)))
    except (IndexError, UnicodeDecodeError, OSError) as error:
        raise GraphInvalid(f"{model}: is damaged or not an ONNX model ({error})") from None


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if kind == "Tensor":
        yield from _location(message)
        return
    if depth > _MOST_DEEP:
        raise IndexError("graphs are nested too deeply")
    ways = _WAYS[kind]
    for number, wire_type, place in fields(message):
        if wire_type == DELIMITED and number in ways:
            yield from _locations(message[place], ways[number], depth + 1)


def _location(tensor: memoryview) -> Iterator[str]:
    entries, is_external = [], False
    for number, wire_type, place in fields(tensor):
        if number == _DATA_LOCATION and wire_type == VARINT:
            is_external = read_varint(tensor, place.start)[0] == _EXTERNAL
        elif number == _ENTRY and wire_type == DELIMITED:
            entries.append(tensor[place])
    if is_external:
        for entry in entries:
            texts = {number: bytes(entry[place]) for number, kind, place in fields(entry) if kind == DELIMITED}
            if texts.get(_KEY) == b"location":
                yield texts.get(_VALUE, b"").decode()

"""Which tensors of a graph have no shape, so that they may be of any rank: ONNX Runtime shows them as scalars.

Read from the message itself (onnx.proto), as the runtime tells nobody and the server has no package for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from service.fields import DELIMITED, fields

_GRAPH = 7  # of ModelProto
_ENDS = (11, 12)  # inputs and outputs, of GraphProto
_NAME, _TYPE = 1, 2  # of ValueInfoProto
_TENSOR = 1  # of TypeProto
_SHAPE = 2  # of TypeProto.Tensor, which a scalar has as well, empty


def without_shape(model: Path) -> frozenset[str]:
    """Return the names of the inputs and outputs for which a model that was opened states no shape.

    None of one that was changed since and is damaged now.
    """
    try:
        return frozenset(_names(memoryview(model.read_bytes())))
    except (IndexError, UnicodeDecodeError, OSError):
        return frozenset()


def _names(model: memoryview) -> Iterator[str]:
    for graph in _inside(model, _GRAPH):
        for end in (end for number in _ENDS for end in _inside(graph, number)):
            tensors = [tensor for kind in _inside(end, _TYPE) for tensor in _inside(kind, _TENSOR)]
            if not any(True for tensor in tensors for _ in _inside(tensor, _SHAPE)):
                yield from (bytes(name).decode() for name in _inside(end, _NAME))


def _inside(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (message[place] for number, kind, place in fields(message) if (number, kind) == (wanted, DELIMITED))

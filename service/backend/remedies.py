"""Explains in one line why ONNX Runtime rejects a graph, and what helps."""

from __future__ import annotations

from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, InvalidProtobuf, NoSuchFile

from service.errors import GraphInvalid, GraphNotRunnable, LoadError, OutOfMemory

_DAMAGED = (InvalidArgument, InvalidProtobuf, NoSuchFile)
# Words of ONNX Runtime 1.32's messages, of C++'s and of CUDA's.
_NO_MEMORY = ("bad_alloc", "Failed to allocate memory", "out of memory")
_TENSORS_ONLY = "export it with tensors only (skl2onnx: options={'zipmap': False})"
_CAST = "cast it to a supported type inside the graph"
# What helps, by words of ONNX Runtime 1.32's message.
_REMEDIES = {
    "External data": "put the files that the model names into the version's folder, beside model.onnx",
    "Unsupported model IR version": "save it with an older IR version, or serve with a newer ONNX Runtime",
    "opset": "export it with an older opset, or serve with a newer ONNX Runtime",
    "is not a registered function/op": "export it with standard ONNX operators only",
    "No Op registered": "export it with standard ONNX operators of its opset only",
    "construct locale": "install the locale that the graph names on the server's machine (Debian: locales-all)",
    "Could not find an implementation": "export it in float32, or with another opset (17 works for most models)",
}


def not_opened(error: Exception) -> LoadError:
    """Return the error for what opening a session raised; the caller adds the path of the file."""
    said = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(words in said for words in _NO_MEMORY):
        return OutOfMemory(f"memory ran out as ONNX Runtime opened it ({said}): give the server more, or serve less")
    if isinstance(error, _DAMAGED):
        return GraphInvalid(f"ONNX Runtime cannot open it ({said}): copy or export it again")
    remedy = next((text for words, text in _REMEDIES.items() if words in said), "")
    return GraphNotRunnable(f"ONNX Runtime cannot open it ({said})" + (f": {remedy}" if remedy else ""))


def wrong_type(name: str, type_name: str) -> str:
    """Return the message for an input or output whose type the protocol does not have."""
    remedy = _CAST if type_name.startswith("tensor") else _TENSORS_ONLY
    return f"tensor '{name}' has type {type_name}, which the protocol does not have: {remedy}"

"""Weights in files beside model.onnx, read when a session is opened.

ONNX Runtime maps such files: a file written over in place would change the answers of the session that serves, and one
cut short, as ``cp`` does first, would end the process (SIGBUS).
"""

from __future__ import annotations

from pathlib import Path, PurePath

import onnxruntime as ort

from service.errors import GraphInvalid
from service.external_data import external_files


def read_weights(model: Path, options: ort.SessionOptions) -> list[bytes]:
    """Have a session take the weights beside a model file from memory.

    Files that cannot be read, or are not below the model's folder, are left to ONNX Runtime, which says what is wrong;
    so are weights within the bodies of loops and conditions, and all weights if this ONNX Runtime cannot do it.

    Args:
        model: model.onnx.
        options: The session's, before it is opened.

    Returns:
        What was read, to be kept until the session is open. ONNX Runtime copies it.
    """
    take = getattr(options, "add_external_initializers_from_files_in_memory", None)
    if take is None:
        return []
    found: dict[str, bytes] = {}
    try:
        for name in external_files(model):
            place = PurePath(name)
            if not place.is_absolute() and ".." not in place.parts and (model.parent / name).is_file():
                found[name] = (model.parent / name).read_bytes()
    except (GraphInvalid, OSError):
        return []
    if found:
        take(list(found), list(found.values()), [len(data) for data in found.values()])
    return list(found.values())

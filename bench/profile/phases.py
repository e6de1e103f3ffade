"""From the functions on a stack to a phase of a call. Pure.

It knows the server's files and functions by name. Unknown ones count for the thread's own phase: a function that was
renamed moves its CPU from one row to another. A test checks the names against the sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum


class Phase(StrEnum):
    """A part of the work on a call, in the order in which a call meets them."""

    HTTP2 = "HTTP/2"
    INTAKE = "take in, parse"
    ADMIT = "check, admit, queue"
    PREPARE = "decode pictures, sentences"
    BATCH = "choose and assemble a batch"
    MODEL = "inference (ONNX Runtime)"
    REPLY = "split, encode, hand over"
    THREADS = "threads: sleep, wake, GIL"
    OTHER = "metrics, logs, the rest"


# By file, then by the beginning of the function's qualified name; the longest beginning wins, "" is the whole file.
# A function that is not here counts as whoever called it.
RULES: Mapping[str, Mapping[str, Phase]] = {
    "service/backend/onnx.py": {"": Phase.MODEL},
    "service/backend/cuda.py": {"": Phase.MODEL},
    "service/batching/assembly.py": {"": Phase.BATCH, "split": Phase.REPLY},
    "service/batching/batcher.py": {
        "": Phase.BATCH,
        "Batcher.reserve": Phase.ADMIT,
        "Batcher.submit": Phase.ADMIT,
        "Batcher.offer": Phase.ADMIT,
        "Batcher.repeat": Phase.ADMIT,
        "Batcher._take_in": Phase.ADMIT,
    },
    "service/batching/instance.py": {"": Phase.BATCH, "Instance._answer": Phase.REPLY},
    "service/batching/observer.py": {"": Phase.OTHER},
    "service/batching/policy.py": {"": Phase.BATCH},
    "service/batching/request.py": {
        "PendingRequest.__init__": Phase.ADMIT,
        "PendingRequest.answer": Phase.REPLY,
        "PendingRequest.refuse": Phase.REPLY,
    },
    "service/batching/sharing.py": {"": Phase.ADMIT},
    "service/checks.py": {"": Phase.ADMIT},
    "service/dataplane.py": {"": Phase.ADMIT},
    "service/gather.py": {"": Phase.PREPARE, "PartReply.answer": Phase.REPLY, "Gather.part_": Phase.REPLY},
    "service/logs.py": {"": Phase.OTHER},
    "service/metrics.py": {"": Phase.OTHER},
    "service/model_metrics.py": {"": Phase.OTHER},
    "service/preparation.py": {"": Phase.PREPARE, "Terms.": Phase.ADMIT, "Burst.": Phase.INTAKE},
    "service/preprocessing/header.py": {"": Phase.PREPARE},
    "service/preprocessing/image.py": {"": Phase.PREPARE},
    "service/preprocessing/prepare.py": {"": Phase.PREPARE, "Preparer.check": Phase.ADMIT},
    "service/preprocessing/text.py": {"": Phase.PREPARE},
    "service/repository/metered.py": {"": Phase.OTHER},
    "service/transport/access.py": {"": Phase.INTAKE},
    "service/transport/access_log.py": {"": Phase.OTHER},
    "service/transport/call.py": {
        "": Phase.INTAKE,
        "InFlight": Phase.OTHER,
        "Call._ended": Phase.OTHER,
        "Call.respond": Phase.REPLY,
        "Call.refuse": Phase.REPLY,
        "Call._fail": Phase.REPLY,
        "Call._settle": Phase.REPLY,
    },
    "service/transport/call_record.py": {"": Phase.OTHER},
    "service/transport/calls.py": {"": Phase.INTAKE, "Calls.count": Phase.OTHER, "Calls.settle": Phase.OTHER},
    "service/transport/fast_lane.py": {
        "": Phase.INTAKE,
        "_NativeResponder.respond": Phase.REPLY,
        "_NativeResponder.fail": Phase.REPLY,
    },
    "service/transport/grpcio_door.py": {"": Phase.HTTP2},
    "service/transport/lone_calls.py": {"": Phase.INTAKE},
    "service/transport/recorder.py": {"": Phase.OTHER},
    "service/transport/repeated.py": {"": Phase.INTAKE},
    "service/transport/replies.py": {"": Phase.REPLY, "InferReply.__init__": Phase.INTAKE},
    "service/transport/reply_queue.py": {"": Phase.REPLY},
    "service/transport/status.py": {"": Phase.REPLY},
    "service/transport/template.py": {"": Phase.INTAKE},
    "service/transport/tensor_codec.py": {
        "": Phase.INTAKE,
        "encode_": Phase.REPLY,
        "raw_tag": Phase.REPLY,
        "classification": Phase.REPLY,
    },
    "service/transport/tracing.py": {"": Phase.OTHER},
    "service/fields.py": {"": Phase.INTAKE, "write_varint": Phase.REPLY},
    "threading.py": {"Condition.wait": Phase.THREADS, "Condition.notify": Phase.THREADS, "Event.": Phase.THREADS},
}
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^()]*):\d+\)")


def phase_of_stack(stack: Sequence[str]) -> Phase | None:
    """Return the phase of a Python stack; None if nothing on it is known.

    Args:
        stack: Frames from the outermost to the innermost, such as ``Calls.begin (service/transport/calls.py:82)``.

    >>> begin, offer = "Calls.begin (service/transport/calls.py:82)", "Batcher.offer (service/batching/batcher.py:163)"
    >>> phase_of_stack([begin, offer, "RequestQueue.append (service/batching/queue.py:56)"])
    <Phase.ADMIT: 'check, admit, queue'>
    """
    for frame in reversed(stack):
        found = _FRAME.fullmatch(frame)
        rules = RULES.get(found["file"]) if found else None
        if found and rules:
            fitting = [start for start in rules if found["function"].startswith(start)]
            if fitting:
                return rules[max(fitting, key=len)]
    return None


def is_in_the_runtime(stack: Sequence[str]) -> bool:
    """Tell whether a Python stack ends in ONNX Runtime, whose machine code perf has counted already.

    >>> is_in_the_runtime(["OnnxBackend.run (service/backend/onnx.py:126)", "Session.run (onnxruntime/capi/a.py:1)"])
    True
    """
    return bool(stack) and stack[-1].startswith("Session.run (onnxruntime/")


def phase_of_machine_code(frames: Sequence[tuple[str, str]], kind: str, *, runs_python: bool) -> Phase | None:
    """Return the phase of what a thread was executing on its core; None if only Python's stack can tell.

    Args:
        frames: Symbol and library from the innermost outwards; the kernel's first, if it was in the kernel.
        kind: Of the thread.
        runs_python: Whether Python knows the thread.
    """
    if any("onnxruntime" in library for _, library in frames):
        return Phase.MODEL
    if not runs_python:
        return Phase.HTTP2
    if frames and frames[0][1].startswith("[kernel"):
        symbols = " ".join(symbol for symbol, _ in frames)
        if "futex" in symbols or "sched_yield" in symbols:
            return Phase.THREADS
        if phase_of_thread(kind) is Phase.HTTP2:
            return Phase.HTTP2
        if "ksys_write" in symbols or "sys_sendto" in symbols:  # wakes the thread that speaks HTTP/2
            return Phase.REPLY
    return None


def thread_kind(name: str) -> str:
    """Return the kind of a thread, by its name.

    >>> thread_kind("lenet5-mnist/1"), thread_kind("prepare_0"), thread_kind("intake")
    ('instances', 'prepare_*', 'intake')
    """
    if re.fullmatch(r".+/\d+", name):
        return "instances"
    return re.sub(r"\d+", "*", name)


def phase_of_thread(kind: str) -> Phase:
    """Return the phase for the unknown part of a thread of this kind."""
    if kind == "intake":
        return Phase.INTAKE
    if kind == "instances":
        return Phase.BATCH
    if kind.startswith("prepare"):
        return Phase.PREPARE
    # With the grpcio door its loop and the thread that polls for it; all but unused behind the native one.
    return Phase.HTTP2 if kind == "grpcio" or "_poll_wrapper" in kind else Phase.OTHER

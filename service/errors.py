"""One class per kind of failure, each with the canonical gRPC status name that the client sees.

This module knows names only: ``transport.status`` alone turns them into codes and
``google.rpc`` details. A message is written for the caller: it says what was expected and
what came, never a path of the server or another exception's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

COMING_SECONDS = 1.0
"""When a retry is worthwhile of what comes by itself: a version is loaded, or a server's place taken, in seconds."""


class ServingError(Exception):
    """A failure of one request, as its caller will see it.

    Attributes:
        status: Canonical status name, e.g. ``"NOT_FOUND"``.
        reason: Machine-readable reason in UPPER_SNAKE_CASE, sent as ``ErrorInfo.reason``.
        message: Text for the caller.
        retry_after_seconds: When a retry is worthwhile, or None; sent as ``RetryInfo``.
        facts: Short facts for ``ErrorInfo.metadata``, e.g. the queue's length.
    """

    status: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, facts: Mapping[str, str] | None = None
    ) -> None:
        """Keep the message and the machine-readable details."""
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.facts = dict(facts or {})


class InvalidInput(ServingError):
    """A wrong name, dtype, shape, byte count, picture or text (INVALID_ARGUMENT)."""

    status = "INVALID_ARGUMENT"
    reason = "INVALID_INPUT"


class ModelNotFound(ServingError):
    """No model or version of that name (NOT_FOUND)."""

    status = "NOT_FOUND"
    reason = "MODEL_NOT_FOUND"


class NotFound(ServingError):
    """Something other than a model does not exist: a shared memory region, a repository (NOT_FOUND)."""

    status = "NOT_FOUND"
    reason = "NOT_FOUND"


class AlreadyExists(ServingError):
    """A name that is taken (ALREADY_EXISTS)."""

    status = "ALREADY_EXISTS"
    reason = "ALREADY_EXISTS"


class NotAllowed(ServingError):
    """The server is not set up for this call; the message says which setting allows it (FAILED_PRECONDITION)."""

    status = "FAILED_PRECONDITION"
    reason = "NOT_ALLOWED"


class ModelNotReady(ServingError):
    """A known version that is loading, unloading or failed to load (UNAVAILABLE)."""

    status = "UNAVAILABLE"
    reason = "MODEL_NOT_READY"


class Unloading(ModelNotReady):
    """The version was being unloaded when the request reached it; a newer one may serve (UNAVAILABLE)."""


class Draining(ServingError):
    """The server finished its lame duck and takes no new work (UNAVAILABLE)."""

    status = "UNAVAILABLE"
    reason = "DRAINING"


class RepositorySilent(ServingError):
    """The disk of the model repository does not answer; what is loaded serves on (UNAVAILABLE)."""

    status = "UNAVAILABLE"
    reason = "REPOSITORY_SILENT"


class QueueFull(ServingError):
    """A bounded queue is at its bound; refused at the door (RESOURCE_EXHAUSTED)."""

    status = "RESOURCE_EXHAUSTED"
    reason = "QUEUE_FULL"


class DeadlineUnmeetable(ServingError):
    """The predicted finish lies past the deadline; refused at the door (RESOURCE_EXHAUSTED)."""

    status = "RESOURCE_EXHAUSTED"
    reason = "DEADLINE_UNMEETABLE"


class DeadlineExceeded(ServingError):
    """The deadline passed while the request was queued (DEADLINE_EXCEEDED)."""

    status = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class RequestCancelled(ServingError):
    """The caller left (CANCELLED).

    Attributes:
        at: When, on the batcher's clock; None for just now.
    """

    status = "CANCELLED"
    reason = "CANCELLED"

    def __init__(self, message: str, *, at: float | None = None) -> None:
        """Keep the message and the instant."""
        super().__init__(message)
        self.at = at


class LoadFailed(ServingError):
    """A call asked for a model to be loaded that cannot be served (FAILED_PRECONDITION)."""

    status = "FAILED_PRECONDITION"
    reason = "LOAD_FAILED"


class Unauthenticated(ServingError):
    """A credential is missing or unknown (UNAUTHENTICATED)."""

    status = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class PermissionDenied(ServingError):
    """The credential is known and does not suffice (PERMISSION_DENIED)."""

    status = "PERMISSION_DENIED"
    reason = "PERMISSION_DENIED"


class Unimplemented(ServingError):
    """A method or feature that this server does not have (UNIMPLEMENTED)."""

    status = "UNIMPLEMENTED"
    reason = "UNIMPLEMENTED"


class BackendFailed(ServingError):
    """The runtime failed on a batch; every member gets this (INTERNAL)."""

    reason = "BACKEND_FAILED"


class OutputNotText(BackendFailed):
    """An output has text that is not UTF-8, whose bytes the runtime does not hand over (UNIMPLEMENTED)."""

    status = "UNIMPLEMENTED"
    reason = "OUTPUT_NOT_UTF8"


class InternalError(ServingError):
    """Anything unexpected; logged with the request id, answered without the exception's text (INTERNAL)."""


class LoadError(Exception):
    """A model version cannot be served; the message is for the operator and names what is wrong.

    Callers of an affected model see :class:`ModelNotReady`, never this text in full.

    Attributes:
        hint: What callers are told instead.
    """

    hint = "loading failed"


class ManifestInvalid(LoadError):
    """manifest.json is missing, has an unknown or missing key, or contradicts the graph."""

    hint = "its manifest, labels or golden answers are not valid"


class GraphInvalid(LoadError):
    """model.onnx is missing, damaged, of another digest, or not servable."""

    hint = "its model file is damaged or differs from its manifest"


class GraphNotRunnable(GraphInvalid):
    """model.onnx is intact, but uses what the runtime or the protocol lacks; the message names the remedy."""

    hint = "its graph has something that this server cannot run; the log says what"


class OutOfMemory(LoadError):
    """Memory ran out while model.onnx was opened; the file may be right."""

    hint = "memory ran out"


class ProviderUnavailable(LoadError):
    """CUDA was demanded but the session came up without it."""


class LoadTimedOut(LoadError):
    """Loading did not end in time and was given up."""

    hint = "loading did not end in time"


class GoldenMismatch(LoadError):
    """A golden vector was not reproduced within the manifest's tolerance."""

    hint = "it did not reproduce its golden answers"


class SettingsError(Exception):
    """A flag, variable or configuration file is wrong; one line for the command line, with the remedy."""

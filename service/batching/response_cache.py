"""Answers kept for identical requests: bounded in bytes, the least recently used leave first."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

_ENTRY_BYTES = 512  # key, list and array headers of an entry, so that many small ones are bounded too

Rows = tuple[np.ndarray, ...]


def request_key(identity: str, names: Sequence[str], inputs: Sequence[np.ndarray]) -> bytes:
    """Return the SHA-256 digest of all that an answer depends on.

    Every part is preceded by its length, so that no two different requests are the same bytes.

    Args:
        identity: Model, version and digest of its file.
        names: Of the inputs, in the graph's order.
        inputs: One array an input. Elements of dtype object must be ``str``.
    """
    digest = hashlib.sha256()
    _add(digest, identity.encode())
    for name, array in zip(names, inputs, strict=True):
        _add(digest, name.encode())
        _add(digest, f"{array.dtype.str} {array.dtype.name} {array.shape}".encode())
        if array.dtype == object:
            for element in array.flat:
                _add(digest, element.encode())
        else:
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()


class ResponseCache:
    """All outputs of requests by key. Thread-safe; every operation is O(1) but for what has to leave."""

    def __init__(self, max_bytes: int) -> None:
        """Hold nothing yet, and never more than ``max_bytes``, keys included."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[Rows, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """Bytes that the entries take."""
        return self._bytes

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._entries)

    def get(self, key: bytes) -> Rows | None:
        """Return the outputs kept under a key, which nobody may write to, and use them now."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: bytes, outputs: Sequence[np.ndarray]) -> int:
        """Keep a copy of outputs under a key; return how many entries had to leave for it.

        Outputs that are text, or larger than the whole cache, are not kept.
        """
        size = _ENTRY_BYTES + sum(output.nbytes for output in outputs)
        if size > self._max_bytes or any(output.dtype == object for output in outputs):
            return 0
        rows = tuple(np.array(output) for output in outputs)  # a view would keep the whole batch
        for row in rows:
            row.flags.writeable = False
        evicted = 0
        with self._lock:
            if (old := self._entries.pop(key, None)) is not None:
                self._bytes -= old[1]
            while self._bytes + size > self._max_bytes:
                _, (_, freed) = self._entries.popitem(last=False)
                self._bytes -= freed
                evicted += 1
            self._entries[key] = rows, size
            self._bytes += size
        return evicted


def _add(digest: hashlib._Hash, part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "little") + part)

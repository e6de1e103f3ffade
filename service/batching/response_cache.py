"""Answers kept for identical requests. Bounded in bytes; the least recently used leave first."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# What Python and NumPy need besides the numbers, so that many small entries are bounded too; tests weigh it.
_ENTRY_BYTES = 512
_ARRAY_BYTES = 192

Rows = tuple[np.ndarray, ...]


def request_key(identity: str, names: Sequence[str], inputs: Sequence[np.ndarray]) -> bytes:
    """Return the SHA-256 digest of all that an answer depends on.

    Every part is preceded by its length, so that no two different requests give the same bytes.

    Args:
        identity: Model, version and digest of its file.
        names: The inputs' names, in the graph's order.
        inputs: One array per input. Elements of dtype object must be ``str``.
    """
    digest = hashlib.sha256()
    _add(digest, identity.encode())
    for name, array in zip(names, inputs, strict=True):
        _add(digest, name.encode())
        _add(digest, f"{array.dtype.str} {array.shape}".encode())  # dtype.name would take longer than the rest
        if array.dtype == object:
            for element in array.flat:
                _add(digest, element.encode())
        else:
            digest.update(np.ascontiguousarray(array).reshape(-1).data)
    return digest.digest()


def item_key(identity: str, item: bytes | memoryview | str) -> bytes:
    """Return the digest of an encoded picture or a sentence as it came; it never equals that of a tensor request."""
    digest = hashlib.sha256()
    _add(digest, identity.encode())
    _add(digest, b"")
    _add(digest, b"text" if isinstance(item, str) else b"bytes")
    _add(digest, item.encode() if isinstance(item, str) else bytes(item))
    return digest.digest()


class _Entry(NamedTuple):
    rows: Rows
    size_bytes: int


class ResponseCache:
    """The server's memory of answers, of which each version has a :class:`Shelf`. Thread-safe.

    Worst case: ``max_bytes`` of entries, Python's own share included. Every operation is O(1), apart from
    evictions.

    Attributes:
        max_bytes: Most bytes of all entries.
        size_bytes: Bytes that they take.
        entries: Those of all shelves, the least recently used first.
        lock: Held by the shelves, for dictionary work only.
    """

    def __init__(self, max_bytes: int) -> None:
        """Hold nothing yet, and never more than ``max_bytes``."""
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.entries: OrderedDict[tuple[Shelf, bytes], _Entry] = OrderedDict()
        self.lock = threading.Lock()

    def shelf(self) -> Shelf:
        """Return the part of one version."""
        return Shelf(self)

    def drop(self, shelf: Shelf, key: bytes) -> None:
        """Forget an entry, if there is one. Call it under the lock."""
        entry = self.entries.pop((shelf, key), None)
        if entry is not None:
            self.size_bytes -= entry.size_bytes
            shelf.size_bytes -= entry.size_bytes
            shelf.keys.remove(key)


class Shelf:
    """One version's part of the cache. Its answers go with the version, even if somebody still holds the shelf.

    Attributes:
        size_bytes: Bytes that its entries take.
        keys: The keys of its entries; changed under the cache's lock only.
    """

    __slots__ = ("_cache", "_closed", "keys", "size_bytes")

    def __init__(self, cache: ResponseCache) -> None:
        self._cache = cache
        self._closed = False
        self.size_bytes = 0
        self.keys: set[bytes] = set()

    def get(self, key: bytes) -> Rows | None:
        """Return the outputs kept under a key, which nobody may write to, and mark them as used."""
        cache = self._cache
        with cache.lock:
            entry = cache.entries.get((self, key))
            if entry is None:
                return None
            cache.entries.move_to_end((self, key))
            return entry.rows

    def put(self, key: bytes, outputs: Sequence[np.ndarray]) -> int:
        """Keep a copy of outputs under a key; return how many entries, of any version, were evicted for it.

        Outputs that are text, larger than the whole cache, or of a closed shelf are not kept.
        """
        cache = self._cache
        size = _ENTRY_BYTES + sum(_ARRAY_BYTES + output.nbytes for output in outputs)
        if size > cache.max_bytes or any(output.dtype == object for output in outputs):
            return 0
        rows = tuple(np.array(output) for output in outputs)  # a view would keep the whole batch
        for row in rows:
            row.flags.writeable = False
        evicted = 0
        with cache.lock:
            if self._closed:
                return 0
            cache.drop(self, key)
            while cache.size_bytes + size > cache.max_bytes:
                cache.drop(*next(iter(cache.entries)))
                evicted += 1
            cache.entries[self, key] = _Entry(rows, size)
            cache.size_bytes += size
            self.size_bytes += size
            self.keys.add(key)
        return evicted

    def close(self) -> None:
        """Drop everything and keep nothing more, not even what is being computed."""
        with self._cache.lock:
            self._closed = True
            for key in list(self.keys):
                self._cache.drop(self, key)


def _add(digest: hashlib._Hash, part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "little") + part)

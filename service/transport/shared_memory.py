"""System shared memory: regions that callers on this machine register, tensors that lie in them.

A region is read and written through its descriptor, never mapped. If a caller shrinks or removes
a mapped region, touching it kills the process; a read through a descriptor only comes back short.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import AlreadyExists, InvalidInput, NotFound, ServingError

_FOLDER = "/dev/shm"  # noqa: S108 - where shm_open(3) keeps POSIX shared memory on Linux
_KEY = re.compile(r"/?[A-Za-z0-9_.:-]{1,255}")  # one name, no path
_MAX_REGIONS = 4096
_MAX_NAME = 1024


@dataclass(frozen=True, slots=True)
class Region:
    """A registered part of a shared memory object.

    Attributes:
        name: As callers refer to it.
        key: The object's name, as in shm_open(3).
        offset: Bytes before the region.
        byte_size: Its length in bytes.
        descriptor: Open file descriptor.
    """

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int


class SharedMemory:
    """The registered regions. Thread-safe; the lock is held while bytes are copied."""

    def __init__(self, max_text_bytes: int = 2**31 - 1) -> None:
        """Know no region; ``max_text_bytes`` bounds a tensor of pictures or texts, whose size no shape tells."""
        self.max_text_bytes = max_text_bytes
        self._regions: dict[str, Region] = {}
        self._lock = threading.Lock()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open an object and remember a part of it.

        Raises:
            AlreadyExists: The name is taken (ALREADY_EXISTS).
            InvalidInput: A bad name or key, no such object, or a part that lies outside it
                (INVALID_ARGUMENT).
        """
        if not 1 <= len(name) <= _MAX_NAME:
            raise InvalidInput(f"shared memory region: expected a name of 1 to {_MAX_NAME} characters, got {len(name)}")
        bare = key.removeprefix("/")
        if not _KEY.fullmatch(key) or bare in (".", ".."):
            raise InvalidInput(f"shared memory region '{name}': the key must be one name without a path, got {key!r}")
        if byte_size < 1:
            raise InvalidInput(f"shared memory region '{name}': expected a size of at least 1 byte, got {byte_size}")
        with self._lock:
            if name in self._regions:
                raise AlreadyExists(f"shared memory region '{name}' is registered already")
            if len(self._regions) >= _MAX_REGIONS:
                raise InvalidInput(f"{_MAX_REGIONS} shared memory regions are registered, unregister some")
            descriptor = _open(name, bare)
            try:
                _check_bounds(name, os.fstat(descriptor).st_size, offset, byte_size)
            except InvalidInput:
                os.close(descriptor)
                raise
            self._regions[name] = Region(name, key, offset, byte_size, descriptor)

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all; an unknown one is no error, as in Triton."""
        with self._lock:
            for known in [name] if name else list(self._regions):
                if (region := self._regions.pop(known, None)) is not None:
                    os.close(region.descriptor)

    def regions(self, name: str = "") -> list[Region]:
        """Return one region, or all by name.

        Raises:
            NotFound: No region of that name (NOT_FOUND).
        """
        with self._lock:
            if not name:
                return [self._regions[known] for known in sorted(self._regions)]
            return [self._find(name)]

    def check(self, name: str, offset: int, byte_size: int) -> None:
        """Refuse a part that does not lie in its region, before anything is computed for it.

        Raises:
            InvalidInput: No such region, or the part lies outside it (INVALID_ARGUMENT).
        """
        with self._lock:
            self._part(name, offset, byte_size)

    def read(self, name: str, offset: int, byte_size: int) -> bytes:
        """Copy a part of a region.

        Raises:
            InvalidInput: As for :meth:`check`, or the object was shrunk since (INVALID_ARGUMENT).
        """
        with self._lock:
            region = self._part(name, offset, byte_size)
            with _refusing(name):
                data = os.pread(region.descriptor, byte_size, region.offset + offset)
        if len(data) != byte_size:
            raise InvalidInput(f"shared memory region '{name}' holds {len(data)} of {byte_size} bytes: it was shrunk")
        return data

    def write(self, name: str, offset: int, byte_size: int, data: bytes) -> None:
        """Copy an output into a part of a region.

        Raises:
            InvalidInput: As for :meth:`read`, or the output is larger than the part.
        """
        if len(data) > byte_size:
            raise InvalidInput(
                f"the output needs {len(data)} bytes, the part of shared memory region '{name}' has {byte_size}"
            )
        with self._lock:
            region = self._part(name, offset, byte_size)
            end = region.offset + offset + len(data)
            # Writing past the end would make the object grow.
            with _refusing(name):
                room = os.fstat(region.descriptor).st_size >= end
                written = os.pwrite(region.descriptor, data, region.offset + offset) if room else 0
            if written != len(data):
                raise InvalidInput(
                    f"shared memory region '{name}' has no room for {len(data)} bytes: it was shrunk or memory is full"
                )

    def _find(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise NotFound(f"no shared memory region '{name}' is registered")
        return region

    def _part(self, name: str, offset: int, byte_size: int) -> Region:
        try:
            region = self._find(name)
        except ServingError as error:
            raise InvalidInput(error.message) from None
        _check_bounds(name, region.byte_size, offset, byte_size)
        return region


def _open(name: str, bare_key: str) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(os.path.join(_FOLDER, bare_key), flags)
    except OSError as error:
        raise InvalidInput(f"shared memory region '{name}': cannot open its object: {error.strerror}") from None


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn a system error, such as a full disk, into an error of the call. Without a mapping, no signal kills us."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(f"shared memory region '{name}' cannot be used: {error.strerror}") from None


def _check_bounds(name: str, size: int, offset: int, byte_size: int) -> None:
    if offset < 0 or byte_size < 0 or offset + byte_size > size:
        raise InvalidInput(
            f"shared memory region '{name}' has {size} bytes, bytes {offset} to {offset + byte_size} lie outside it"
        )

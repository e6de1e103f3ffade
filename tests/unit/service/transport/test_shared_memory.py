"""Regions are bounded, named without paths, and may vanish without harm."""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import AlreadyExists, InvalidInput, NotFound
from service.transport import shared_memory
from service.transport.shared_memory import SharedMemory

FOLDER = Path("/dev/shm")


@pytest.fixture
def key() -> Iterator[str]:
    """An object of 64 bytes, 0 to 63."""
    name = f"convserve-test-{uuid.uuid4().hex}"
    (FOLDER / name).write_bytes(bytes(range(64)))
    yield name
    (FOLDER / name).unlink(missing_ok=True)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    shared = SharedMemory()
    yield shared
    shared.unregister()


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_region_is_read_and_written_within_its_offset(memory: SharedMemory, key: str) -> None:
    memory.register("in", f"/{key}", offset=8, byte_size=16)
    assert memory.read("in", 0, 16) == bytes(range(8, 24))
    assert memory.read("in", 4, 2) == bytes([12, 13])
    memory.write("in", 2, 4, b"abc")
    assert (FOLDER / key).read_bytes()[8:16] == bytes([8, 9]) + b"abc" + bytes([13, 14, 15])


def test_status_shows_what_is_registered(memory: SharedMemory, key: str) -> None:
    memory.register("b", key, 0, 64)
    memory.register("a", f"/{key}", 8, 16)
    assert [(r.name, r.key, r.offset, r.byte_size) for r in memory.regions()] == [
        ("a", f"/{key}", 8, 16),
        ("b", key, 0, 64),
    ]
    assert [r.name for r in memory.regions("a")] == ["a"]
    with pytest.raises(NotFound, match="'c'"):
        memory.regions("c")


def test_a_name_is_taken_once(memory: SharedMemory, key: str) -> None:
    memory.register("in", key, 0, 64)
    before = open_descriptors()
    with pytest.raises(AlreadyExists, match="'in'"):
        memory.register("in", key, 0, 8)
    assert open_descriptors() == before
    memory.unregister("in")
    memory.register("in", key, 0, 8)


@pytest.mark.parametrize("bad", ["", "/", "..", "/..", "../etc/passwd", "/a/b", "a/b", "a b", "a\0b", "x" * 300])
def test_a_key_is_one_name_without_a_path(memory: SharedMemory, bad: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(f"the key must be one name without a path, got {bad!r}")):
        memory.register("in", bad, 0, 8)


def test_a_link_is_not_followed(memory: SharedMemory, key: str) -> None:
    link = FOLDER / f"{key}-link"
    link.symlink_to("/etc/hostname")
    try:
        with pytest.raises(InvalidInput, match="cannot open its object"):
            memory.register("in", link.name, 0, 1)
    finally:
        link.unlink()


def test_no_such_object_tells_no_path(memory: SharedMemory) -> None:
    with pytest.raises(InvalidInput) as caught:
        memory.register("in", "no-such-object", 0, 8)
    assert str(FOLDER) not in caught.value.message


@pytest.mark.parametrize(("offset", "size"), [(0, 65), (64, 1), (2**63, 8), (0, 2**63)])
def test_a_region_lies_within_its_object(memory: SharedMemory, key: str, offset: int, size: int) -> None:
    before = open_descriptors()
    with pytest.raises(InvalidInput, match="lie outside it"):
        memory.register("in", key, offset, size)
    assert open_descriptors() == before


@pytest.mark.parametrize(("name", "size"), [("", 8), ("n" * 2000, 8), ("in", 0)])
def test_names_and_sizes_have_bounds(memory: SharedMemory, key: str, name: str, size: int) -> None:
    with pytest.raises(InvalidInput):
        memory.register(name, key, 0, size)


@pytest.mark.parametrize(("offset", "size"), [(0, 17), (16, 1), (9, 8), (-1, 8)])
def test_a_tensor_lies_within_its_region(memory: SharedMemory, key: str, offset: int, size: int) -> None:
    memory.register("in", key, 8, 16)
    for use in (memory.check, memory.read):
        with pytest.raises(InvalidInput, match="'in' has 16 bytes"):
            use("in", offset, size)
    with pytest.raises(InvalidInput, match="'in' has 16 bytes"):
        memory.write("in", offset, size, b"")


def test_there_are_so_many_regions_at_most(memory: SharedMemory, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "_MAX_REGIONS", 2)
    for name in ("a", "b"):
        memory.register(name, key, 0, 64)
    with pytest.raises(InvalidInput, match="2 shared memory regions are registered, unregister some"):
        memory.register("c", key, 0, 64)
    memory.unregister("a")
    memory.register("c", key, 0, 64)
    assert [region.name for region in memory.regions()] == ["b", "c"]


def test_an_output_must_fit(memory: SharedMemory, key: str) -> None:
    memory.register("out", key, 0, 16)
    with pytest.raises(InvalidInput, match="needs 9 bytes, the part of shared memory region 'out' has 8"):
        memory.write("out", 0, 8, b"x" * 9)


def test_an_unknown_region_is_named(memory: SharedMemory) -> None:
    with pytest.raises(InvalidInput, match="no shared memory region 'in' is registered"):
        memory.read("in", 0, 1)
    memory.unregister("in")


def test_an_object_that_shrinks_is_an_error_and_does_not_grow_again(memory: SharedMemory, key: str) -> None:
    memory.register("in", key, 0, 64)
    os.truncate(FOLDER / key, 8)
    with pytest.raises(InvalidInput, match="holds 8 of 64 bytes: it was shrunk"):
        memory.read("in", 0, 64)
    with pytest.raises(InvalidInput, match="it was shrunk"):
        memory.write("in", 0, 64, b"x" * 64)
    with pytest.raises(InvalidInput, match="it was shrunk"):
        memory.write("in", 4, 8, b"x" * 8)
    assert (FOLDER / key).stat().st_size == 8
    memory.write("in", 4, 8, b"abcd")
    assert memory.read("in", 0, 8) == b"\0\1\2\3abcd"


def test_an_object_that_is_unlinked_stays_until_it_is_unregistered(memory: SharedMemory, key: str) -> None:
    before = open_descriptors()
    memory.register("in", key, 0, 64)
    (FOLDER / key).unlink()
    assert memory.read("in", 0, 2) == b"\0\1"
    memory.unregister()
    assert open_descriptors() == before
    assert memory.regions() == []


def test_a_full_disk_is_an_error_of_the_call(memory: SharedMemory, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a signal, as writing to a mapping of an object without pages would be."""
    memory.register("region", key, 0, 64)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InvalidInput, match="shared memory region 'region' cannot be used: No space left on device"):
        memory.write("region", 0, 8, bytes(8))

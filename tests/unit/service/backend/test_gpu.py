from __future__ import annotations

import ctypes
from typing import Any

import pytest

from service.backend.gpu import gpu_name


class Driver:
    """CUDA's driver with one GPU; ``fails`` names the function that returns an error."""

    def __init__(self, fails: str = "") -> None:
        self._fails = fails

    def cuInit(self, _flags: int) -> int:
        return int(self._fails == "cuInit")

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = 7
        return int(self._fails == "cuDeviceGet" or ordinal != 0)

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:
        assert (size, device.value) == (256, 7)
        name.value = b"NVIDIA H100"
        return int(self._fails == "cuDeviceGetName")


def load(monkeypatch: pytest.MonkeyPatch, driver: object) -> None:
    def library(_name: str) -> object:
        if isinstance(driver, OSError):
            raise driver
        return driver

    monkeypatch.setattr(ctypes, "CDLL", library)


def test_the_first_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    load(monkeypatch, Driver())
    assert gpu_name() == "NVIDIA H100"


@pytest.mark.parametrize(
    "driver",
    [OSError("no such file"), object(), Driver("cuInit"), Driver("cuDeviceGet"), Driver("cuDeviceGetName")],
)
def test_without_a_driver_or_a_gpu_there_is_no_name(monkeypatch: pytest.MonkeyPatch, driver: object) -> None:
    load(monkeypatch, driver)
    assert gpu_name() == ""

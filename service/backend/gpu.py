"""The GPU that CUDA would take, by name: what was measured on one does not hold for another."""

from __future__ import annotations

import ctypes

from service.backend.onnx import DRIVER

_NAME_BYTES = 256


def gpu_name() -> str:
    """Return the name that the driver gives the first visible GPU; empty without a driver or a GPU.

    Asks CUDA's driver, which heeds ``CUDA_VISIBLE_DEVICES``, and makes no context.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
        device = ctypes.c_int()
        name = ctypes.create_string_buffer(_NAME_BYTES)
        failed = (
            driver.cuInit(0)
            or driver.cuDeviceGet(ctypes.byref(device), 0)
            or driver.cuDeviceGetName(name, _NAME_BYTES, device)
        )
    except (OSError, AttributeError):  # no driver, or none of CUDA's
        return ""
    return "" if failed else name.value.decode(errors="replace")

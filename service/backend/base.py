"""The contract between a servable and what computes its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from service.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Provider:
    """Which execution provider was asked for and which one really runs.

    Attributes:
        requested: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        actual: ONNX Runtime's name of the provider in use, e.g. ``"CPUExecutionProvider"``.
        device: ``"cpu"`` or ``"cuda:0"``.
    """

    requested: str
    actual: str
    device: str


class Backend(Protocol):
    """One loaded graph. ``run`` may be called from several threads at once.

    Attributes:
        inputs: Inputs in the order of ``run``'s argument, the batch dimension included.
        optional_inputs: Inputs that have a default in the graph (ONNX: initializers named among the inputs), as they
            stand there.
        outputs: Outputs in the order of ``run``'s result.
        provider: What really runs, read back from the session.
    """

    inputs: Sequence[TensorSpec]
    optional_inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    provider: Provider

    def run(
        self, inputs: Sequence[np.ndarray], overrides: Mapping[str, np.ndarray] | None = None, /
    ) -> list[np.ndarray]:
        """Compute one batch; the GIL is released meanwhile.

        Args:
            inputs: One C-contiguous array an input, each with the same first dimension.
            overrides: Optional inputs by name; the others keep their defaults.

        Returns:
            One array an output, owned by the caller.

        Raises:
            BackendFailed: The runtime failed, or (OutputNotText) gave what cannot be had; the session stays usable.
        """
        ...

    def interrupt(self) -> None:
        """Make every run under way end with BackendFailed, if the runtime still listens. For a backend given up."""
        ...

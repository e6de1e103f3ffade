"""A network layer by layer: output size by the lecture's formula, parameters, multiply-adds.

The network runs once on torch's ``meta`` device, where tensors have shapes but no values, so even
ResNet-152 takes only a moment and no memory. :mod:`export.architectures.sizes` computes each layer's
size from its input and its parameters instead of reading it from the output; a test compares the two.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from export.architectures.base import Network
from export.architectures.sizes import conv_output_size, pool_output_size

_aten = torch.ops.aten
_EXAMPLE_BATCH = 2
_EXAMPLE_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Attributes:
        name: Name of the module that computes it.
        kind: E.g. ``"conv 5x5/1"``: kind, size and stride.
        output: Shape of the output by formula, without the batch axis.
        came: Shape of torch's output, without the batch axis.
        parameters: Number of learned parameters, by formula.
        multiply_adds: For one input; 0 if there are only additions or comparisons.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    came: tuple[int, ...]
    parameters: int
    multiply_adds: int


def layers_of(network: Network, height: int, width: int, channels: int) -> list[Layer]:
    """Return the layers of a picture network in the order in which they run."""
    return _run(network, torch.empty(_EXAMPLE_BATCH, channels, height, width, device="meta"))


def layers_of_sentence(network: Network) -> list[Layer]:
    """Return the layers of a sentence network for a sentence of 20 tokens."""
    return _run(network, torch.zeros(_EXAMPLE_BATCH, _EXAMPLE_TOKENS, dtype=torch.int64, device="meta"))


def _run(network: Network, inputs: torch.Tensor) -> list[Layer]:
    recorder = _Recorder()
    with torch.no_grad(), _named(network.to("meta").eval(), recorder), recorder:
        network(inputs)
    return recorder.layers


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every layer among the operations that torch runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Layer] = []
        self.names = [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        measure = _MEASURES.get(func.overloadpacket)
        if measure is not None:
            first = answer[0] if isinstance(answer, tuple) else answer
            kind, output, parameters, work = measure(*args)
            self.layers.append(Layer(self.names[-1], kind, output, tuple(first.shape[1:]), parameters, work))
        return answer


@contextlib.contextmanager
def _named(network: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Tell the recorder which module is running."""
    hooks = []
    for name, module in network.named_modules():
        push, pop = _hooks(name, recorder)
        hooks += [module.register_forward_pre_hook(push), module.register_forward_hook(pop)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hooks(name: str, recorder: _Recorder) -> tuple[Callable[..., None], Callable[..., None]]:
    def push(*_: Any) -> None:
        recorder.names.append(name)

    def pop(*_: Any) -> None:
        recorder.names.pop()

    return push, pop


# Kind, output by formula, parameters, multiply-adds of one input.
_Measured = tuple[str, tuple[int, ...], int, int]


def _conv(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, *_: Any) -> _Measured:
    filters, depth, *sizes = weight.shape
    output = tuple(
        conv_output_size(*numbers) for numbers in zip(x.shape[2:], sizes, stride, padding, dilation, strict=True)
    )
    parameters = math.prod(sizes) * depth * filters + (filters if bias is not None else 0)
    work = math.prod(sizes) * depth * filters * math.prod(output)
    return f"conv {_by(sizes)}/{stride[0]}", (filters, *output), parameters, work


def _pool(kind: str) -> Callable[..., _Measured]:
    def measure(x: Any, kernel: Any, stride: Any = (), padding: Any = (0, 0), *rest: Any) -> _Measured:
        kernel, padding = _pair(kernel), _pair(padding)
        stride = _pair(stride) if stride else kernel
        # Max pooling has a dilation before ceil_mode; average pooling does not.
        dilation, ceil = (_pair(rest[0]) if rest else (1, 1), rest[1:2]) if kind == "max" else ((1, 1), rest[:1])
        numbers = zip(x.shape[-2:], kernel, stride, padding, dilation, strict=True)
        output = tuple(pool_output_size(*each, ceil=bool(ceil and ceil[0])) for each in numbers)
        return f"{kind} pool {_by(kernel)}/{stride[0]}", (x.shape[1], *output), 0, 0

    return measure


def _mean(x: Any, axes: Any = None, keep: bool = False, **_: Any) -> _Measured:
    axes = [axis % x.dim() for axis in axes or range(x.dim())]
    shape = tuple(1 if i in axes else size for i, size in enumerate(x.shape) if keep or i not in axes)
    return "mean", shape[1:], 0, 0


def _adaptive(x: Any, size: Any) -> _Measured:
    return "mean", (x.shape[1], *size), 0, 0


def _linear(bias: Any, x: Any, weight: Any, **_: Any) -> _Measured:
    inputs, outputs = weight.shape
    return "linear", (*x.shape[1:-1], outputs), inputs * outputs + outputs, inputs * outputs


def _product(x: Any, weight: Any) -> _Measured:
    inputs, outputs = weight.shape
    return "linear", (*x.shape[1:-1], outputs), inputs * outputs, inputs * outputs


def _norm(x: Any, weight: Any, bias: Any, *_: Any) -> _Measured:
    parameters = sum(x.shape[1] for part in (weight, bias) if part is not None)
    return "batch norm", tuple(x.shape[1:]), parameters, 0


def _embedding(weight: Any, ids: Any, *_: Any) -> _Measured:
    return "word vectors", (*ids.shape[1:], weight.shape[1]), weight.numel(), 0


_MEASURES: dict[Any, Callable[..., _Measured]] = {
    _aten.convolution: _conv,
    _aten.max_pool2d_with_indices: _pool("max"),
    _aten.avg_pool2d: _pool("mean"),
    _aten.mean: _mean,
    _aten._adaptive_avg_pool2d: _adaptive,
    _aten.addmm: _linear,
    _aten.mm: _product,
    _aten.native_batch_norm: _norm,
    _aten._native_batch_norm_legit_no_training: _norm,
    _aten.cudnn_batch_norm: _norm,
    _aten.embedding: _embedding,
}


def _pair(value: Any) -> tuple[int, int]:
    return tuple(value) * (2 // len(value)) if isinstance(value, list | tuple) else (value, value)


def _by(sizes: Any) -> str:
    return "x".join(map(str, sizes))

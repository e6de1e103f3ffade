"""Formulas for the output sizes of convolutions and poolings."""

from __future__ import annotations


def conv_output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Return the size of a convolution's output along one axis: (W - F + 2P) / S + 1, rounded down.

    Left-over rows or columns at the far edge are dropped. ``dilation`` widens F to ``dilation * (F - 1) + 1``.

    Raises:
        ValueError: The filter does not fit into the padded input.

    Source:
        Dumoulin and Visin (2016), arXiv:1603.07285.

    >>> conv_output_size(32, kernel=5)                         # LeNet-5, C1
    28
    >>> conv_output_size(227, kernel=11, stride=4)             # AlexNet, the first layer
    55
    >>> conv_output_size(224, kernel=11, stride=4, padding=2)  # the same in torchvision
    55
    """
    extent = dilation * (kernel - 1) + 1
    room = size - extent + 2 * padding
    if room < 0:
        raise ValueError(f"{formula(size, extent, stride, padding)} < 1: the filter does not fit")
    return room // stride + 1


def whole_output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return (W - F + 2P) / S + 1, which must be a whole number.

    Raises:
        ValueError: It is not whole, or the filter does not fit; the message has the formula and the numbers.

    >>> whole_output_size(224, 11, 4, 0)
    Traceback (most recent call last):
    ValueError: (W - F + 2P) / S + 1 = (224 - 11 + 2 * 0) / 4 + 1 = 54.25: not a whole number
    """
    came = conv_output_size(size, kernel, stride, padding)
    room = size - kernel + 2 * padding
    if room % stride:
        raise ValueError(f"{formula(size, kernel, stride, padding)} = {room / stride + 1:g}: not a whole number")
    return came


def pool_output_size(
    size: int, kernel: int, stride: int, padding: int = 0, dilation: int = 1, *, ceil: bool = False
) -> int:
    """Return the size of a pooling's output along one axis.

    With ``ceil`` a window may extend beyond the far edge, as long as it starts within the input or the padding before
    it: GoogLeNet goes from 112 to 56, not to 55.

    >>> pool_output_size(112, kernel=3, stride=2, ceil=True)
    56
    """
    if not ceil:
        return conv_output_size(size, kernel, stride, padding, dilation)
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    windows = -(-room // stride) + 1
    return windows - 1 if (windows - 1) * stride >= size + padding else windows


def formula(size: int, kernel: int, stride: int, padding: int) -> str:
    """Format the formula with its numbers."""
    return f"(W - F + 2P) / S + 1 = ({size} - {kernel} + 2 * {padding}) / {stride} + 1"

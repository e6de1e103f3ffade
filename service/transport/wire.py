"""The fields of a message, counted before it is parsed.

An empty field takes two bytes in a message and up to a hundred once parsed, so a message within the limit on bytes
could still fill the memory. A message with more fields than any request needs is refused before that.
"""

from __future__ import annotations

from itertools import islice
from typing import TypeVar

from google.protobuf.message import Message

from service.errors import InvalidInput
from service.fields import fields

_UNCOUNTED_BYTES = 65536  # a message this small cannot fill the memory, and counting would cost its caller time

M = TypeVar("M", bound=Message)


def parse(message_type: type[M], payload: bytes, most_fields: int, most_items: int = 0) -> M:
    """Parse a message of so many fields at most; those of the messages within it do not count.

    Args:
        message_type: What it is.
        payload: The message.
        most_fields: So many.
        most_items: How many pictures or sentences may be among them, which is what the caller is told; 0: none can be.

    Raises:
        DecodeError: It is damaged.
        InvalidInput: It has more of them (INVALID_ARGUMENT).
    """
    if len(payload) > _UNCOUNTED_BYTES and has_more_fields(payload, most_fields):
        limit = f": expected 1 to {most_items} items" if most_items else ""
        raise InvalidInput(f"the request message has more than {most_fields} fields{limit}")
    return message_type.FromString(payload)


def has_more_fields(payload: bytes, most: int) -> bool:
    """Tell whether a message has more fields than so many; looks at no more than those. A damaged one has none."""
    try:
        return sum(1 for _ in islice(fields(payload), most + 1)) > most
    except IndexError:
        return False

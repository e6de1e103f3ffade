"""What is said where a door cannot be made."""

from __future__ import annotations

import pytest

from service.errors import SettingsError
from service.transport.address import listening


def test_no_host_is_not_every_interface() -> None:
    told = r"^--host: expected an address to listen on, such as .*, got none$"
    with pytest.raises(SettingsError, match=told), listening("http", "", 0, "--host"):
        pytest.fail("it would be bound")

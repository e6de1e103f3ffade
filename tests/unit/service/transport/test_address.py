"""What is said where a door cannot be made."""

from __future__ import annotations

import tempfile

import pytest

from service.errors import SettingsError
from service.transport.address import listening, socket_folder


def test_without_a_writable_folder_the_remedy_is_no_other_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    with pytest.raises(
        SettingsError, match=r"No usable .*'/tmp'\]. Let /tmp or TMPDIR be writable, or give --transport g"
    ):
        socket_folder()


def test_no_host_is_not_every_interface() -> None:
    told = r"^--host: expected an address to listen on, such as .*, got none$"
    with pytest.raises(SettingsError, match=told), listening("http", "", 0, "--host"):
        pytest.fail("it would be bound")

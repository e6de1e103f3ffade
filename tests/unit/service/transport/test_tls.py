"""Certificates that change, followed at each handshake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.transport.tls import TlsFiles, _Follower


def test_a_change_that_could_not_be_read_is_taken_at_the_next_handshake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = TlsFiles(tmp_path / "certificate", tmp_path / "key", None)
    for path in (files.certificate, files.key):
        path.write_bytes(b"-----BEGIN")
    follower = _Follower(files, files.stamp())
    assert follower() is None
    os.utime(files.key, ns=(1, 1))

    def fail(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as unreadable:
        unreadable.setattr(Path, "read_bytes", fail)
        for _ in range(3):
            assert follower() is None
    assert len(caplog.records) == 1, "not at every handshake"
    assert follower() is not None
    assert follower() is None

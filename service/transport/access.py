"""Who may call what: bearer tokens from two files, one for inference and one for administration.

A token file holds one token per line. It is read again when it changes, so tokens are rotated without
a restart. Health, liveness and readiness need no token, since probes carry none.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from service.errors import NotAllowed, PermissionDenied, ServingError, SettingsError, Unauthenticated

_LOG = logging.getLogger(__name__)

Metadata = Iterable[tuple[str, str | bytes]]

_OPEN = frozenset({"ServerLive", "ServerReady", "Check", "Watch", "ServerReflectionInfo"})
_ADMIN = frozenset({"RepositoryModelLoad", "RepositoryModelUnload", "LogSettings"})
# A region is whatever this server's user may open, to which callers on the same machine may have a right.
_REGIONS = frozenset({"SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"})


class TokenFile:
    """The tokens of one group. Thread-safe; a change that cannot be read keeps the last good ones."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SettingsError: It cannot be read, is not UTF-8 or holds no token.
        """
        self._path = path
        self._lock = threading.Lock()
        self._stamp = (0, 0)
        self._said = ""
        self._digests: frozenset[bytes] = frozenset()
        try:
            self._read()
        except OSError as error:
            raise SettingsError(f"token file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"token file {path}: is not UTF-8") from None
        if not self._digests:
            raise SettingsError(f"token file {path}: holds no token, expected one a line")

    def holds(self, token: str) -> bool:
        """Return whether a token is in the file. Compares digests, so that the time taken reveals no token."""
        with self._lock:
            try:
                self._read()
            except OSError as error:
                if str(error) != self._said:  # not at each call
                    self._said = str(error)
                    _LOG.error("a token file cannot be read, the current tokens stay valid: %s", error)
            except UnicodeDecodeError:  # logged once: the file is not read again until it changes
                _LOG.error("a token file is not UTF-8, the current tokens stay valid")
        return hashlib.sha256(token.encode()).digest() in self._digests

    def _read(self) -> None:
        about = self._path.stat()
        stamp = (about.st_mtime_ns, about.st_ino)
        if stamp == self._stamp:
            return
        data = self._path.read_bytes()
        self._stamp, self._said = stamp, ""
        lines = data.decode().splitlines()
        digests = frozenset(hashlib.sha256(line.strip().encode()).digest() for line in lines if line.strip())
        if digests:
            self._digests = digests
        elif self._digests:
            _LOG.error("a token file became empty, the current tokens stay valid")


class Access:
    """The rule for every method. Thread-safe."""

    def __init__(self, infer: TokenFile | None, admin: TokenFile | None, *, local: bool) -> None:
        """Keep the groups.

        Args:
            infer: Tokens that allow inference and description; None if those need no token.
            admin: Tokens that allow changing the server, and inference too; None if there are none.
            local: Whether only this machine reaches the server. If so, callers who may infer may register shared
                memory, and without ``admin`` anybody may change the server. If not, both need a token of ``admin``.
        """
        self._infer = infer
        self._admin = admin
        self._local = local
        self.open_to_infer = infer is None
        """Whether inference needs no token, so that a call's metadata need not be looked at."""

    def refusal(self, method: str, metadata: Metadata) -> ServingError | None:
        """Return why a call to ``/package.Service/Method`` is refused, or None; its bearer token counts."""
        name = method.rpartition("/")[2]
        if name in _OPEN:
            return None
        if name in _ADMIN:
            if self._admin is None:
                if self._local:
                    return None
                return NotAllowed("calls may change this server only with --admin-tokens-file")
            return self._check(metadata, [self._admin], "administer")
        if name in _REGIONS and not self._local:
            if self._admin is None:
                return NotAllowed(
                    "this server listens beyond loopback: shared memory can be registered only with --admin-tokens-file"
                )
            return self._check(metadata, [self._admin], "register shared memory")
        if self._infer is None:
            return None
        groups = [self._infer] if self._admin is None else [self._infer, self._admin]
        return self._check(metadata, groups, "infer")

    def _check(self, metadata: Metadata, groups: list[TokenFile], what: str) -> ServingError | None:
        token = _bearer(metadata)
        if not token:
            return Unauthenticated("this method needs a token: metadata 'authorization: Bearer TOKEN'")
        if any(group.holds(token) for group in groups):
            return None
        others = [group for group in (self._infer, self._admin) if group is not None and group not in groups]
        if any(group.holds(token) for group in others):
            return PermissionDenied(f"this token may not {what}")
        return Unauthenticated("the token is not known")


def _bearer(metadata: Metadata) -> str:
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer":
                return token.strip()
    return ""

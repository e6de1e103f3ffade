"""Tokens by group, rotated without a restart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.errors import SettingsError
from service.transport.access import Access, TokenFile

INFER = "/inference.GRPCInferenceService/ModelInfer"
DESCRIBE = "/convserve.classification.v1.ClassificationService/DescribeModel"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"
REGIONS = tuple(f"/inference.GRPCInferenceService/SystemSharedMemory{what}" for what in ("Register", "Unregister"))
STATUS = "/inference.GRPCInferenceService/SystemSharedMemoryStatus"
FREE = (
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/inference.GRPCInferenceService/ServerReady",
)


def bearer(token: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "test"), ("authorization", f"Bearer {token}")]


def status(access: Access, method: str, metadata: list[tuple[str, str | bytes]] | None = None) -> str:
    error = access.refusal(method, metadata or [])
    return error.status if error else "OK"


@pytest.fixture
def files(tmp_path: Path) -> tuple[TokenFile, TokenFile]:
    (tmp_path / "infer").write_text("alpha\n\n  beta  \n")
    (tmp_path / "admin").write_text("root\n")
    return TokenFile(tmp_path / "infer"), TokenFile(tmp_path / "admin")


def test_an_empty_file_at_the_start_is_told_once_and_speaks_of_no_present_tokens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "none").write_text("\n")
    with pytest.raises(SettingsError, match="holds no token"):
        TokenFile(tmp_path / "none")
    assert not caplog.records


def test_without_files_everything_is_open() -> None:
    access = Access(None, None, local=True)
    assert access.open_to_infer
    assert [status(access, method) for method in (INFER, DESCRIBE, LOAD, *REGIONS, *FREE)] == ["OK"] * 8


def test_away_from_loopback_nobody_administers_without_a_file() -> None:
    access = Access(None, None, local=False)
    assert access.open_to_infer
    assert (status(access, INFER), status(access, LOAD)) == ("OK", "FAILED_PRECONDITION")


@pytest.mark.parametrize("method", REGIONS)
def test_away_from_loopback_nobody_registers_memory_without_a_file(method: str) -> None:
    access = Access(None, None, local=False)
    error = access.refusal(method, [])
    assert error is not None
    assert (error.status, "--admin-tokens-file" in error.message) == ("FAILED_PRECONDITION", True)
    assert status(access, STATUS) == "OK"


@pytest.mark.parametrize("method", REGIONS)
@pytest.mark.parametrize(
    ("token", "away", "here"),
    [
        ("root", "OK", "OK"),
        ("alpha", "PERMISSION_DENIED", "OK"),
        ("gamma", "UNAUTHENTICATED", "UNAUTHENTICATED"),
        ("", "UNAUTHENTICATED", "UNAUTHENTICATED"),
    ],
)
def test_memory_is_registered_from_afar_by_who_administers(
    files: tuple[TokenFile, TokenFile], method: str, token: str, away: str, here: str
) -> None:
    for local, expected in ((False, away), (True, here)):
        access = Access(*files, local=local)
        assert status(access, method, bearer(token)) == expected


@pytest.mark.parametrize(
    ("method", "token", "expected"),
    [
        (INFER, "alpha", "OK"),
        (INFER, "beta", "OK"),
        (INFER, "root", "OK"),
        (INFER, "gamma", "UNAUTHENTICATED"),
        (INFER, "", "UNAUTHENTICATED"),
        (DESCRIBE, "", "UNAUTHENTICATED"),
        (LOAD, "root", "OK"),
        (LOAD, "alpha", "PERMISSION_DENIED"),
        (LOAD, "gamma", "UNAUTHENTICATED"),
        (LOAD, "", "UNAUTHENTICATED"),
    ],
)
def test_each_group_has_its_tokens(files: tuple[TokenFile, TokenFile], method: str, token: str, expected: str) -> None:
    access = Access(*files, local=True)
    assert status(access, method, bearer(token)) == expected


@pytest.mark.parametrize("token", ["gamma", "root"])
def test_with_one_file_alone_an_unknown_token_is_refused_as_unknown(
    files: tuple[TokenFile, TokenFile], token: str
) -> None:
    infer, admin = files
    assert status(Access(infer, None, local=True), INFER, bearer(token)) == "UNAUTHENTICATED"
    only_admin = Access(None, admin, local=True)
    assert status(only_admin, LOAD, bearer(token)) == ("OK" if token == "root" else "UNAUTHENTICATED")


def test_who_brings_no_token_is_told_how_to_bring_one(files: tuple[TokenFile, TokenFile]) -> None:
    error = Access(*files, local=True).refusal(INFER, [])
    assert error is not None
    assert "authorization: Bearer" in error.message


def test_probes_need_none(files: tuple[TokenFile, TokenFile]) -> None:
    access = Access(*files, local=False)
    assert [status(access, method) for method in FREE] == ["OK"] * 3


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", "alpha")],
        [("authorization", "Basic alpha")],
        [("authorization", b"Bearer alpha")],
        [("authorization", "Bearer")],
        [("x-authorization", "Bearer alpha")],
    ],
)
def test_only_a_bearer_token_counts(
    files: tuple[TokenFile, TokenFile], metadata: list[tuple[str, str | bytes]]
) -> None:
    assert status(Access(*files, local=True), INFER, metadata) == "UNAUTHENTICATED"


def test_a_refusal_does_not_repeat_the_token(files: tuple[TokenFile, TokenFile]) -> None:
    error = Access(*files, local=True).refusal(INFER, bearer("sesame-open"))
    assert error is not None
    assert "sesame" not in error.message


def rewrite(path: Path, text: str, clock: list[int]) -> None:
    clock[0] += 1_000_000_000
    path.write_text(text)
    os.utime(path, ns=(clock[0], clock[0]))


def test_tokens_are_rotated_in_place(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens", [1_700_000_000_000_000_000]
    rewrite(path, "old", clock)
    tokens = TokenFile(path)
    rewrite(path, "new", clock)
    assert (tokens.holds("new"), tokens.holds("old")) == (True, False)
    rewrite(path, "\n", clock)
    assert tokens.holds("new"), "an empty file locks nobody out"
    path.unlink()
    assert tokens.holds("new"), "neither does a lost one"


def test_what_became_of_a_file_is_logged_once_and_not_at_each_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "tokens", [1_700_000_000_000_000_000]
    rewrite(path, "alpha", clock)
    tokens = TokenFile(path)
    told = []
    for change in ("lost", "back", "lost", "empty"):
        if change == "lost":
            path.unlink()
        else:
            rewrite(path, "alpha" if change == "back" else "\n", clock)
        caplog.clear()
        for _ in range(3):
            assert tokens.holds("alpha")
        told.append([record.message.partition(",")[0] for record in caplog.records])
    lost, empty = "a token file cannot be read", "a token file became empty"
    assert told == [[lost], [], [lost], [empty]]


def test_a_file_that_is_missing_at_the_start_is_not_called_empty(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        TokenFile(tmp_path / "tokens")


@pytest.mark.parametrize("content", [None, "", " \n\n"])
def test_a_file_without_a_token_is_refused_at_the_start(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokens").write_text(content)
    with pytest.raises(SettingsError, match="token file"):
        TokenFile(tmp_path / "tokens")


def test_a_file_that_is_not_utf8_is_refused_at_the_start_and_not_taken_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not UTF-8"):
        TokenFile(path)
    path.write_text("alpha")
    tokens = TokenFile(path)
    path.write_bytes(b"\xff\xfe")
    os.utime(path, ns=(1, 1))
    for _ in range(3):
        assert tokens.holds("alpha")
    assert len(caplog.records) == 1, "not at every call"
    path.write_text("beta")
    os.utime(path, ns=(2, 2))
    assert tokens.holds("beta")

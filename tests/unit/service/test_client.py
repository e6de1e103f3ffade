"""What the clients decide without a server: credentials from flags and variables, retries, how failures are read."""

from __future__ import annotations

import argparse
import asyncio
import inspect
import io
import math
import pickle
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2

from service.client import (
    AsyncClient,
    CallFailed,
    Client,
    Credentials,
    CredentialsInvalid,
    add_credential_flags,
    credentials_of,
    explained,
)
from service.client.address import NO_ADDRESS
from service.client.bearer import aio_interceptors, interceptor
from service.client.requests import (
    CHANNEL_OPTIONS,
    TIMEOUT_SECONDS,
    Terms,
    describe_request,
    health_request,
    images_request,
    sentences_request,
)
from service.errors import DeadlineUnmeetable, ModelNotFound
from service.transport.status import status_of

REFUSED = CallFailed(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry_after_seconds=2.0)


def resolved(*arguments: str, **variables: str) -> Credentials:
    parser = argparse.ArgumentParser()
    add_credential_flags(parser)
    environment = {f"CONVSERVE_CLIENT_{name}": value for name, value in variables.items()}
    return credentials_of(parser.parse_args(arguments), environment)


def refusal(*arguments: str, **variables: str) -> str:
    with pytest.raises(CredentialsInvalid) as caught:
        resolved(*arguments, **variables)
    return str(caught.value)


def test_without_flags_nothing_is_encrypted_or_shown() -> None:
    assert resolved() == Credentials()
    assert credentials_of(environment={}) == Credentials()
    assert not resolved().secure
    assert resolved().ssl_context() is None


@pytest.mark.parametrize(
    ("flag", "variable", "expected"),
    [
        (["--tls"], {"TLS": "True"}, Credentials(tls=True)),
        (["--tls-ca", "ca"], {"TLS_CA": "ca"}, Credentials(ca="ca")),
        (["--tls-server-name", "n"], {"TLS_SERVER_NAME": "n"}, Credentials(server_name="n")),
        (
            ["--tls-certificate", "c", "--tls-key", "k"],
            {"TLS_CERTIFICATE": "c", "TLS_KEY": "k"},
            Credentials(certificate="c", key="k"),
        ),
    ],
)
def test_each_flag_is_a_variable_too_and_turns_tls_on(
    flag: list[str], variable: dict[str, str], expected: Credentials
) -> None:
    assert resolved(*flag) == resolved(**variable) == expected
    assert expected.secure


@pytest.mark.parametrize(("value", "tls"), [("1", True), ("true", True), ("0", False), ("False", False)])
def test_a_variable_turns_tls_on_or_leaves_it_off(value: str, tls: bool) -> None:
    assert resolved(TLS=value) == Credentials(tls=tls)


def test_a_flag_goes_before_a_variable(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("filed\n# a second line\n")
    assert resolved("--tls-ca", "a", TLS_CA="b").ca == "a"
    assert resolved("--tls-ca", "a", TOKEN=" t~ ") == Credentials(ca="a", token="t~")
    assert resolved(TOKEN_FILE=str(tmp_path / "token")).token == "filed"
    assert resolved("--token-file", str(tmp_path / "token"), TOKEN="t").token == "filed"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"TLS_CAT": "x"}, "environment variable CONVSERVE_CLIENT_TLS_CAT: there is no such client setting"),
        ({"Tls": "1"}, "environment variable CONVSERVE_CLIENT_Tls: there is no such client setting"),
        ({"TLS_CA": "", "TOKEN": "tick"}, "CONVSERVE_CLIENT_TLS_CA: expected a value, got none"),
        ({"TLS": "yes"}, "CONVSERVE_CLIENT_TLS: expected true or false, got 'yes'"),
        ({"TOKEN": "tick", "TOKEN_FILE": "f"}, "CONVSERVE_CLIENT_TOKEN and CONVSERVE_CLIENT_TOKEN_FILE are both set"),
        ({"TOKEN": "two words"}, "the token has spaces or letters that cannot be sent"),
        ({"TLS_SERVER_NAME": ".models"}, "'.models' is not a valid server name"),
        ({"TLS_SERVER_NAME": "a\tb"}, r"'a\tb' is not a valid server name"),
        ({"TLS_SERVER_NAME": "two words"}, "'two words' is not a valid server name"),
        ({"TLS_KEY": "k"}, "the client's certificate needs its key"),
    ],
)
def test_a_wrong_variable_is_named_and_no_token_told(variables: dict[str, str], message: str) -> None:
    said = refusal(**variables)
    assert said.startswith(message)
    assert variables.get("TOKEN", "no token") not in said


def test_a_file_without_a_token_on_its_first_line_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(" \ntick\n")
    assert refusal(TOKEN_FILE=str(token)) == f"token file {token}: holds no token on its first line"
    token.write_bytes(b"\xff")
    assert refusal(TOKEN_FILE=str(token)) == f"token file {token}: is not UTF-8"


def test_links_of_kubernetes_are_no_variables_of_ours() -> None:
    assert resolved(SERVICE_HOST="10.0.0.1", PORT="tcp://10.0.0.1:80") == Credentials()


def test_an_empty_name_of_a_file_is_no_leave_to_go_in_the_clear() -> None:
    assert Credentials(ca="").secure


def test_a_token_does_not_show_where_credentials_are_printed() -> None:
    assert "hush" not in repr(Credentials(token="hush"))


@pytest.mark.parametrize(
    ("attempts", "attempt", "give_up", "chance", "wait"),
    [
        (1, 1, None, 0.0, None),  # as it comes, nothing is made twice
        (3, 1, None, 0.0, 2.0),
        (3, 2, None, 1.0, 3.0),  # spread, so that not all come back at once
        (3, 3, None, 0.0, None),
        (3, 1, 12.1, 0.0, 2.0),
        (3, 1, 12.0, 0.0, None),  # the deadline leaves no time
    ],
)
def test_a_refused_call_is_made_again_when_the_server_says_so(
    attempts: int, attempt: int, give_up: float | None, chance: float, wait: float | None
) -> None:
    assert Terms(give_up, (), attempts).wait_seconds(REFUSED, attempt, 10.0, chance) == wait


@pytest.mark.parametrize(
    ("attempt", "give_up", "chance", "wait"),
    [
        (1, None, 0.0, 1.0),
        (1, None, 1.0, 1.5),  # spread, as they were all cut off at once
        (3, None, 0.0, 4.0),
        (5, None, 0.0, 8.0),  # no longer than that
        (10**6 - 1, None, 0.0, 8.0),
        (10**6, None, 0.0, None),
        (3, 14.0, 0.0, None),  # the deadline leaves no time
    ],
)
def test_a_call_that_no_server_answered_is_made_again_less_and_less_often(
    attempt: int, give_up: float | None, chance: float, wait: float | None
) -> None:
    unanswered = CallFailed(grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses")
    assert Terms(give_up, (), 10**6).wait_seconds(unanswered, attempt, 10.0, chance) == wait
    assert Terms(None, (), 1).wait_seconds(unanswered, 1, 10.0, chance) is None  # as it comes, nothing is made twice
    unanswered.retry_after_seconds = 5.0  # somebody says so, whoever it is
    assert Terms(None, (), 2).wait_seconds(unanswered, 1, 10.0, 0.0) == 5.0


@pytest.mark.parametrize(
    "failed",
    [
        CallFailed(grpc.StatusCode.UNAVAILABLE, "it failed to load", reason="MODEL_NOT_READY"),  # so a server answered
        CallFailed(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than a proxy's limit"),
        CallFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "late"),
        CallFailed(grpc.StatusCode.CANCELLED, "gone"),
        CallFailed(grpc.StatusCode.INTERNAL, "failed"),
    ],
    ids=lambda failed: failed.code.name,
)
def test_what_no_repetition_would_change_is_final(failed: CallFailed) -> None:
    assert Terms(None, (), 9).wait_seconds(failed, 1, 0.0, 0.0) is None


def test_the_options_of_a_call_go_before_those_of_the_client() -> None:
    assert Terms.of({}, 5.0, 2, 100.0) == Terms(105.0, (), 2)
    assert Terms.of({"timeout_seconds": None}, 5.0, 2, 100.0).left_seconds(1e9) is None
    assert Terms.of({"timeout_seconds": 1.0, "metadata": [("a", "b")]}, 5.0, 2, 100.0) == Terms(101.0, [("a", "b")], 2)
    assert Terms(101.0, (), 1).left_seconds(102.0) == 0.0


def test_a_misspelt_option_is_named() -> None:
    unknown: Any = {"topk": 3}
    with pytest.raises(TypeError, match="unknown option 'topk'; expected explain, metadata, model_version"):
        images_request("m", [b"x"], unknown)
    for build in (partial(describe_request, "m", ""), partial(health_request, "m")):
        with pytest.raises(TypeError, match="unknown option 'topk'; expected metadata, timeout_seconds"):
            build(unknown)


def test_a_failure_comes_back_from_another_process() -> None:
    failed = CallFailed(grpc.StatusCode.ABORTED, "x", reason="R", facts={"request_id": "i", "a": "b"})
    again = pickle.loads(pickle.dumps(failed))
    assert (type(again), str(again), vars(again)) == (CallFailed, "ABORTED: x", vars(failed))


def test_options_of_the_call_are_not_fields_of_the_request() -> None:
    request = images_request("m", [b"x"], {"top_k": 2, "timeout_seconds": 1.0, "metadata": ()})
    assert (request.model_name, request.images, request.top_k) == ("m", [b"x"], 2)


def test_sentences_may_be_utf8() -> None:
    request = sentences_request("m", [b"caf\xc3\xa9"], {})  # type: ignore[list-item]
    assert (request.model_name, request.sentences) == ("m", ["caf\u00e9"])


def test_one_string_is_no_sequence_of_sentences() -> None:
    with pytest.raises(TypeError, match="got one string"):
        sentences_request("m", "Good.", {})


class Picture:
    """What pictures of other libraries are to us: no bytes."""


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (b"\x89PNG", "expected a sequence of encoded pictures, got the bytes of one: "),
        (bytearray(b"\x89PNG"), "expected a sequence of encoded pictures, got the bytes of one: "),
        ("seven.png", "expected a sequence of encoded pictures, got str: give the bytes of JPEG, "),
        (Path("seven.png"), "got PosixPath: give the bytes of JPEG, "),
        (Picture(), "got Picture: give the bytes of JPEG, "),
        (None, "got NoneType: give the bytes of JPEG, "),
        (io.BytesIO(b"\x89PNG\n"), "got BytesIO: give the bytes of JPEG, "),
        ([b"\x89PNG", Path("seven.png")], "picture 1: expected bytes, got PosixPath: give the bytes of JPEG, "),
        (np.zeros((2, 28, 28), np.uint8), "picture 0: expected bytes, got ndarray: give the bytes of JPEG, "),
    ],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_sequence_of_encoded_pictures_is_told_what_would_be(images: Any, said: str) -> None:
    with pytest.raises(TypeError) as caught:
        images_request("m", images, {})
    assert said in str(caught.value)


def test_inputs_may_come_from_a_generator() -> None:
    assert images_request("m", (b for b in [b"a", b"b"]), {}).images == [b"a", b"b"]  # type: ignore[arg-type]
    assert sentences_request("m", (s for s in "ab"), {}).sentences == ["a", "b"]  # type: ignore[arg-type]
    assert sentences_request("m", np.array(["a"]), {}).sentences == ["a"]  # type: ignore[arg-type]
    assert sentences_request("m", ["a"], {"model_version": None}).model_version == ""  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: sentences_request("m", ["a"], {"model_version": 1}), "model_version: expected str, got int"),  # type: ignore[typeddict-item]
        (lambda: sentences_request("m", [float("nan")], {}), "sentence 0: expected str, got float"),  # type: ignore[list-item]
        (lambda: sentences_request(1, ["a"], {}), "model: expected str, got int"),  # type: ignore[arg-type]
        (lambda: images_request(1, [b"a"], {}), "model: expected str, got int"),  # type: ignore[arg-type]
        (lambda: describe_request(1, "", {}), "model: expected str, got int"),  # type: ignore[arg-type]
        (lambda: describe_request("m", 1, {}), "version: expected str, got int"),  # type: ignore[arg-type]
        (lambda: health_request(1, {}), "model: expected str, got int"),  # type: ignore[arg-type]
        (lambda: health_request("m", {"metadata": {"k": "v"}}), "metadata: expected pairs"),  # type: ignore[typeddict-item]
        (lambda: sentences_request("m", ["a"], {"top_k": "3"}), "top_k: expected int, got str"),  # type: ignore[typeddict-item]
        (lambda: sentences_request("m", ["a"], {"top_k": 2.5}), "top_k: expected int, got float"),  # type: ignore[typeddict-item]
        (lambda: sentences_request("m", ["a"], {"explain": "no"}), "explain: expected bool, got str"),  # type: ignore[typeddict-item]
        (lambda: health_request("m", {"timeout_seconds": "3"}), "timeout_seconds: expected float, got str"),  # type: ignore[typeddict-item]
        (lambda: Client("127.0.0.1:1", timeout_seconds="3"), "timeout_seconds: expected float, got str"),  # type: ignore[arg-type]
        (lambda: Client("127.0.0.1:1", attempts="3"), "attempts: expected int, got str"),  # type: ignore[arg-type]
        (lambda: Client("127.0.0.1:1", attempts=2.5), "attempts: expected int, got float"),  # type: ignore[arg-type]
        (lambda: Client(8001), "server: expected str, got int"),  # type: ignore[arg-type]
        (lambda: Credentials(token=None), "token: expected str, got NoneType"),  # type: ignore[arg-type]
        (lambda: Credentials(server_name=None), "server_name: expected str, got NoneType"),  # type: ignore[arg-type]
        (lambda: sentences_request("m", None, {}), "expected a sequence of sentences, got NoneType"),  # type: ignore[arg-type]
        (lambda: health_request("m", {"metadata": "k: v"}), "metadata: expected pairs .*, got str"),  # type: ignore[typeddict-item]
        (lambda: health_request("m", {"metadata": (pair for pair in ())}), "metadata: .*, got generator"),  # type: ignore[typeddict-item]
        (lambda: health_request("m", {"metadata": [("k", "v", "w")]}), "metadata: .*, got \\('k', 'v', 'w'\\)"),  # type: ignore[list-item]
        (lambda: health_request("m", {"metadata": [("k", 1)]}), "metadata k: expected str, got int"),  # type: ignore[list-item]
        (lambda: health_request("m", {"metadata": [("k-bin", "v")]}), "metadata k-bin: expected bytes, got str"),
    ],
)
def test_what_is_of_another_type_is_named(build: Callable[[], Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        build()


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Client("localhost"), "server: expected HOST:PORT, such as .*, got 'localhost'"),
        (
            lambda: Client("http://127.0.0.1:8001"),
            "server: expected HOST:PORT, such as .*, got 'http://127.0.0.1:8001'",
        ),
        (lambda: Client("127.0.0.1:1", attempts=0), "attempts: expected at least 1, got 0"),
        *(
            (partial(make, seconds), f"timeout_seconds: expected more than 0, or None for no deadline, got {seconds}")
            for seconds in (0, -0.5, math.nan, np.float32("nan"))
            for make in (
                lambda seconds: Client("127.0.0.1:1", timeout_seconds=seconds),
                lambda seconds: sentences_request("m", ["a"], {"timeout_seconds": seconds}),
            )
        ),
        (lambda: sentences_request("m", ["fine", "\ud83d"], {}), "sentence 1: .* got a lone surrogate"),
        (lambda: sentences_request("m", ["a"], {"request_id": "\ud83d"}), "request_id: .* got a lone surrogate"),
        (
            lambda: health_request("m", {"metadata": [("X-Trace", "v")]}),
            "metadata: expected a key of .*, got 'X-Trace'",
        ),
        (lambda: health_request("m", {"metadata": [("k", "v\n")]}), "metadata k: expected printable ASCII"),
        (lambda: health_request("m", {"metadata": [("k", "é")]}), "metadata k: expected printable ASCII"),
    ],
)
def test_a_value_that_cannot_be_sent_is_named(build: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


def test_what_can_be_sent_is() -> None:
    for target in ("unix:/run/convserve.sock", "dns:///convserve:8001", "[::1]:8001"):
        Client(target).close()
    assert sentences_request("m", ["é", "é".encode()], {}).sentences == ["é", "é"]  # type: ignore[list-item]
    for metadata in ([], [("k", "v"), ("k-bin", b"\x00")], {"k": "v"}.items(), None):
        health_request("m", {"metadata": metadata})  # type: ignore[typeddict-item]


def test_help_shows_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default is printed with the signature, so that it may not hold what the environment does."""
    monkeypatch.setenv("CONVSERVE_CLIENT_TOKEN", "secret")
    assert "secret" not in str(inspect.signature(credentials_of))
    assert credentials_of().token == "secret"


def test_numbers_of_numpy_are_numbers() -> None:
    options: Any = {"top_k": np.int64(3), "timeout_seconds": np.float32(2.0), "explain": np.True_}
    assert sentences_request("m", ["a"], options).top_k == 3
    Client("127.0.0.1:1", attempts=np.int64(3), timeout_seconds=np.float64(2.0)).close()  # type: ignore[arg-type]


def refuse(*_: object, **__: object) -> None:
    raise Ended(grpc.StatusCode.NOT_FOUND, "no model", ())


@pytest.mark.usefixtures("without_garbage_collection")
def test_a_failure_is_let_go_with_its_request() -> None:
    with Client("127.0.0.1:1") as client:
        try:
            client._call(refuse, b"request", {})
        except CallFailed as failed:
            gone = weakref.ref(failed)
        assert gone() is None


@pytest.mark.usefixtures("without_garbage_collection")
def test_a_failure_is_let_go_in_asyncio_too() -> None:
    async def refuse_later(*_: object, **__: object) -> None:
        refuse()

    async def run() -> None:
        async with AsyncClient("127.0.0.1:1") as client:
            try:
                await client._call(refuse_later, b"request", {})
            except CallFailed as failed:
                gone = weakref.ref(failed)
            assert gone() is None

    asyncio.run(run())


class Wire:
    """In place of credentials and of the channel that they make: keeps what is sent, and answers."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.sent, self.made, self.closed = [*answers], [], (), False

    def channel(self, *made: Any) -> Any:
        self.made = made
        return self

    def unary_unary(self, method: str, **_: Any) -> Any:
        def call(request: Any, timeout: float, metadata: Any) -> Any:
            self.sent.append((method.rpartition("/")[2], request, timeout, metadata))
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    unary_stream = unary_unary

    def close(self) -> None:
        self.closed = True


def test_the_client_sends_what_it_was_given_and_returns_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    up, down = (health_pb2.HealthCheckResponse(status=status) for status in (1, 2))
    wire: Any = Wire("images", "sentences", Ended(grpc.StatusCode.UNAVAILABLE, "lost", ()), "model", up, down)
    asked: Any = {"timeout_seconds": 5.0, "metadata": [("k", "v")]}
    with Client("127.0.0.1:1", wire, attempts=2, channel_options=[("o", 1)]) as client:
        monkeypatch.setattr(client._closed, "wait", lambda seconds: not 1 <= seconds <= 1.5)
        assert client.classify_images("m", [b"x"], top_k=2, **asked) == "images"
        assert client.classify_sentences("m", ["x"], top_k=2, **asked) == "sentences"
        assert client.describe("m", "3", **asked) == "model"
        assert (client.is_ready("m", **asked), client.is_ready()) == (True, False)
    assert wire.made == ("127.0.0.1:1", [("o", 1), *CHANNEL_OPTIONS])
    assert wire.closed
    described = ("DescribeModel", describe_request("m", "3", {}))
    assert [each[:2] for each in wire.sent] == [
        ("ClassifyImages", images_request("m", [b"x"], {"top_k": 2})),
        ("ClassifySentences", sentences_request("m", ["x"], {"top_k": 2})),
        described,
        described,
        ("Check", health_request("m", {})),
        ("Check", health_request("", {})),
    ]
    assert all(0 < timeout <= 5 and metadata == [("k", "v")] for _, _, timeout, metadata in wire.sent[:-1])
    assert 5 < wire.sent[-1][2] <= TIMEOUT_SECONDS
    monkeypatch.undo()
    wire.answers = [Ended(grpc.StatusCode.UNAVAILABLE, "lost", ())]
    with pytest.raises(CallFailed, match="CANCELLED: the client was closed"):
        client.describe("m", timeout_seconds=None)
    wire.answers = [Ended(grpc.StatusCode.UNAVAILABLE, "lost", ())]
    with Client("127.0.0.1:1", wire) as once, pytest.raises(CallFailed, match="UNAVAILABLE: lost"):
        once.describe("m")


def test_a_deadline_and_metadata_go_out_with_a_call_for_asyncio() -> None:
    asked: Any = {"timeout_seconds": 5.0, "metadata": [("k", "v")]}
    sent: list[dict[str, Any]] = []

    async def run() -> None:
        async with AsyncClient("127.0.0.1:1") as client:
            await client._call(lambda _, **how: asyncio.to_thread(sent.append, how), b"request", asked)

    asyncio.run(run())
    assert [how["metadata"] for how in sent] == [[("k", "v")]]
    assert all(0 < how["timeout"] <= 5 for how in sent)


def test_a_client_for_asyncio_is_closed_at_the_end_of_its_block_and_checks_its_arguments() -> None:
    async def run() -> None:
        async with AsyncClient("127.0.0.1:1") as client:
            pass
        with pytest.raises(ValueError, match="the client is closed"):
            await client.describe("m")
        with pytest.raises(TypeError, match="attempts: expected int, got str"):
            AsyncClient("127.0.0.1:1", attempts="3")  # type: ignore[arg-type]

    asyncio.run(run())


def test_a_task_that_is_cancelled_when_its_client_has_been_closed_ends_cancelled() -> None:
    async def run() -> None:
        client, begun = AsyncClient("127.0.0.1:1"), asyncio.Event()

        async def wait(*_: object, **__: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(client._call(wait, b"request", {}))
        await begun.wait()
        await client.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


@pytest.mark.parametrize("seconds", [math.inf, 1e30])
def test_a_deadline_that_never_comes_is_not_taken_for_the_past(seconds: float) -> None:
    left = Terms.of({"timeout_seconds": seconds}, None, 1, now=5.0).left_seconds(6.0)
    assert left is not None
    assert 1e7 < left < 1e9, "gRPC ends a call at once whose deadline it cannot count"


def test_a_token_joins_what_a_call_brings_and_changes_nothing_else() -> None:
    bare = {"method": "/m", "timeout": 2.0, "credentials": "c", "wait_for_ready": True}
    whole = {**bare, "compression": grpc.Compression.Gzip}
    kinds = ("unary_unary", "unary_stream", "stream_stream")
    made = [(interceptor("t"), kind, whole) for kind in kinds]
    made += [(each, kind, bare) for each, kind in zip(aio_interceptors("t"), kinds, strict=True)]  # as asyncio's is
    for each, kind, given in made:
        for metadata in (None, (("a", "b"),)):
            way: Any = getattr(each, f"intercept_{kind}")
            call, request = way(lambda *sent: sent, SimpleNamespace(metadata=metadata, **given), b"request")
            bearer = ("authorization", "Bearer t")
            assert call._asdict() == {"compression": None, **given, "metadata": (*(metadata or ()), bearer)}
            assert request == b"request"


def test_both_clients_take_the_same() -> None:
    ours, theirs = (
        {name: inspect.signature(way) for name, way in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}
        | {"": inspect.signature(kind)}
        for kind in (Client, AsyncClient)
    )
    assert ours == theirs


def test_a_client_cannot_be_pickled_and_says_what_to_do() -> None:
    async def make() -> AsyncClient:
        return AsyncClient("127.0.0.1:1")

    for client in (Client("127.0.0.1:1"), asyncio.run(make())):
        with pytest.raises(TypeError, match="cannot be pickled or copied: make one in each process"):
            pickle.dumps(client)


def test_a_client_for_asyncio_is_made_where_a_loop_runs() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncClient("127.0.0.1:1")


def test_a_client_for_asyncio_stays_in_the_loop_that_it_was_made_in() -> None:
    async def make() -> AsyncClient:
        return AsyncClient("127.0.0.1:1")

    client = asyncio.run(make())
    with pytest.raises(RuntimeError, match="made in another event loop: make one in the loop that uses it"):
        asyncio.run(client.is_ready())


class Ended(grpc.RpcError):
    """A call that ended, as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, details: str | None, metadata: Any) -> None:
        self.code, self.details, self.trailing_metadata = (lambda: code), (lambda: details), (lambda: metadata)


def test_a_failure_has_all_that_the_server_says() -> None:
    status = status_of(DeadlineUnmeetable("too late", retry_after_seconds=0.25, facts={"queued": "7"}), "id-1")
    failed = CallFailed.of(Ended(status.code, status.message, status.trailing_metadata))
    assert str(failed) == "RESOURCE_EXHAUSTED: too late"
    assert (failed.code, failed.details, failed.reason) == (status.code, "too late", "DEADLINE_UNMEETABLE")
    assert (failed.request_id, failed.facts, failed.retry_after_seconds) == ("id-1", {"queued": "7"}, 0.25)
    status = status_of(ModelNotFound("no model"), "id-2")
    assert CallFailed.of(Ended(status.code, "no model", status.trailing_metadata)).retry_after_seconds is None


DAMAGED = status_pb2.Status()
DAMAGED.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        (),
        (("grpc-status-details-bin", b"\xff"),),
        (("grpc-status-details-bin", DAMAGED.SerializeToString()),),
        (("other", "x"),),
    ],
)
def test_a_failure_of_another_server_has_what_grpc_says(metadata: Any) -> None:
    failed = CallFailed.of(Ended(grpc.StatusCode.UNAVAILABLE, None, metadata))
    assert (str(failed), failed.reason, failed.request_id) == ("UNAVAILABLE: ", "", "")


def test_an_any_of_another_kind_is_passed_over() -> None:
    status = status_pb2.Status()
    status.details.add(type_url="type.googleapis.com/other.Kind", value=b"\xff")
    ended = Ended(grpc.StatusCode.ABORTED, "x", (("grpc-status-details-bin", status.SerializeToString()),))
    assert CallFailed.of(ended).facts == {}


GIVE = "--token-file FILE or CONVSERVE_CLIENT_TOKEN"


@pytest.mark.parametrize(
    ("code", "details", "token", "said"),
    [
        ("NOT_FOUND", "no model\n'm'", "", "NOT_FOUND: no model 'm'"),
        ("UNAUTHENTICATED", "no", "", f"UNAUTHENTICATED: no; give one, {GIVE}"),
        (
            "UNAUTHENTICATED",
            "no",
            "t",
            f"UNAUTHENTICATED: no; the token may have expired or belong to another server: give a valid one, {GIVE}",
        ),
        ("PERMISSION_DENIED", "no", "t", f"PERMISSION_DENIED: no; give another one, {GIVE}"),
        ("UNAVAILABLE", "failed to connect to all", "", "UNAVAILABLE: failed to connect to all"),
    ],
)
def test_what_a_call_ended_with_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, code: str, details: str, token: str, said: str
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # which gRPC does not take for a socket of Unix
    assert explained(grpc.StatusCode[code], details, "unix:/no/such", Credentials(token=token)) == said


@pytest.mark.parametrize("server", ["localhost", "two..dots:1"])
def test_what_is_no_address_is_called_so(server: str) -> None:
    line = explained(grpc.StatusCode.UNAVAILABLE, "no DNS", server, Credentials())
    assert line == f"{server}: {NO_ADDRESS}"


def test_a_key_with_a_passphrase_is_refused_rather_than_asked_about(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    with pytest.raises(CredentialsInvalid, match="the key has a passphrase; expected one without"):
        Credentials(certificate=str(tmp_path / "chain.pem"), key=str(tmp_path / "key.pem")).channel("localhost:1")

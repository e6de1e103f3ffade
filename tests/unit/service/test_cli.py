from __future__ import annotations

import argparse
import os
import runpy
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock, patch

import grpc
import pytest

from service import __version__, cli, client, inspection, logs, server
from service.errors import LoadError, SettingsError
from service.pb.convserve.classification.v1 import classification_pb2 as pb
from service.settings import Settings


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cli, "_is_installed", lambda name: name == "onnxruntime")
    monkeypatch.setattr(logs, "set_up", lambda *_: None)
    with patch.dict(os.environ, clear=True):  # the mapping itself, which `settings.resolve` took when it was imported
        yield


def main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(arguments)
    output = capsys.readouterr()
    return code, output.out, output.err


def test_serve_resolves_the_settings_and_runs_the_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Settings] = []
    monkeypatch.setattr(server, "run", lambda settings: ran.append(settings) or 0)
    assert main(capsys, "serve", "--models", "m", "--grpc-port", "0") == (0, "", "")
    assert ran == [Settings(models="m", grpc_port=0)]


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ([], "convserve: no ONNX Runtime: pip install '.[cpu]' or '.[gpu]' in the checkout\n"),
        (
            ["onnxruntime", "onnxruntime-gpu"],
            "convserve: onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install '.[cpu]' or '.[gpu]' in the checkout\n",
        ),
    ],
)
@pytest.mark.parametrize("command", [("serve", "--models", "m"), ("inspect", "m")], ids=["serve", "inspect"])
def test_what_runs_models_needs_exactly_one_runtime(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    installed: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(cli, "_is_installed", lambda name: name in installed)
    assert main(capsys, *command) == (2, "", message)


def test_the_runtime_of_this_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert cli._is_installed("numpy")
    assert not cli._is_installed("no-such-distribution")


def test_a_wrong_setting_is_one_line_and_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = main(capsys, "serve", "--models", "m", "--grpc-port", "x")
    assert (code, error) == (2, "convserve: --grpc-port: expected int, got 'x'\n")


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (["--model-repository", "m"], "--models"),
        (["--model-repository=m"], "--models"),
        (["--models", "m", "--metrics-port", "1"], "--http-port"),
        (["--load-model", "a"], "--load-models"),
    ],
)
def test_a_flag_of_triton_is_one_line_that_names_ours(
    capsys: pytest.CaptureFixture[str], given: list[str], ours: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["serve", *given])
    error = capsys.readouterr().err
    assert f" is {ours} here" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("error", [SettingsError("nothing there"), LoadError("damaged")])
def test_inspect_prints_its_report_or_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(inspection, "print_report", print)
    assert main(capsys, "inspect", "models/m") == (0, "models/m 1.0\n", "")
    monkeypatch.setattr(inspection, "print_report", lambda *_: 1)
    assert main(capsys, "inspect", "models/m") == (1, "", "")
    monkeypatch.setattr(inspection, "print_report", fail)
    assert main(capsys, "inspect", "models/m") == (2, "", f"convserve: {error}\n")


@pytest.mark.parametrize("given", [[], ["a.png", "--text", "fine"], ["--text", "fine", "--", "a.png"]])
def test_classify_wants_pictures_or_sentences(capsys: pytest.CaptureFixture[str], given: list[str]) -> None:
    code, _, error = main(capsys, "classify", "--model", "m", *given)
    assert code == 2
    assert error == "convserve: classify: give either PICTURE files or --text SENTENCE\n"


def test_classify_calls_the_client(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[argparse.Namespace] = []

    def classify(flags: argparse.Namespace) -> int:
        seen.append(flags)
        return 0

    monkeypatch.setattr(client.classify, "classify_and_print", classify)
    assert main(capsys, "classify", "--model", "m", "a.png", "b.png")[0] == 0
    assert main(capsys, "classify", "--model", "m", "--top-k", "2", "--text", "so good", "--text", "so bad")[0] == 0
    pictures, sentences = seen
    assert (pictures.pictures, pictures.server, pictures.top_k) == (["a.png", "b.png"], "127.0.0.1:8001", 5)
    assert (sentences.text, sentences.top_k) == (["so good", "so bad"], 2)


def test_a_failed_call_is_one_line_and_exit_code_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise client.classify.NotClassified("UNAVAILABLE: nobody listens")

    monkeypatch.setattr(client.classify, "classify_and_print", fail)
    code, _, error = main(capsys, "classify", "--model", "m", "a.png")
    assert (code, error) == (1, "convserve: UNAVAILABLE: nobody listens\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--top-k", "-1"), "--top-k: expected 0 to 2147483647, got -1"),
        (("--top-k", "2147483648"), "--top-k: expected 0 to 2147483647, got 2147483648"),
        (("--timeout-seconds", "0"), "--timeout-seconds: expected more than 0, at most 86400, got 0.0"),
        (("--timeout-seconds", "nan"), "--timeout-seconds: expected more than 0, at most 86400, got nan"),
    ],
)
def test_a_number_out_of_range_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code, _, error = main(capsys, "classify", "--model", "m", "--text", "fine", *arguments)
    assert (code, error) == (2, f"convserve: classify: {message}\n")


@pytest.mark.parametrize("flag", ["--tls-ca", "--tls-key", "--token-file"])
def test_an_empty_file_name_is_no_leave_to_go_without(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    code, _, error = main(capsys, "classify", "--model", "m", "--text", "fine", flag, "")
    assert (code, error) == (2, f"convserve: {flag}: expected a value, got none\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "m", "--text", "\udcff"),
        ("--model", "\udcff", "--text", "fine"),
        *(
            ("--model", "m", "--text", "fine", flag, "\udcff")
            for flag in ("--server", "--model-version", "--tls-server-name")
        ),
    ],
)
def test_what_is_not_utf8_is_one_line(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, _, error = main(capsys, "classify", *arguments)
    assert (code, error) == (2, "convserve: classify: '\\udcff' is not UTF-8\n")


@pytest.mark.parametrize(
    "server", ["127.0.0.1", "http://127.0.0.1:8002", "https://there:8001", "there:70000", "::1", "::1:8001"]
)
def test_what_is_no_host_and_port_is_refused(capsys: pytest.CaptureFixture[str], server: str) -> None:
    code, _, error = main(capsys, "classify", "--server", server, "--model", "m", "--text", "fine")
    expected = "expected HOST:PORT, such as 127.0.0.1:8001 or [::1]:8001"
    assert (code, error) == (2, f"convserve: --server: {expected}, got '{server}'\n")


def test_what_failed_alone_is_told_by_the_name_of_its_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    response = pb.ClassifySentencesResponse(model_name="m", model_version="1")
    response.results.add().error.MergeFrom(pb.ItemError(code=3, message="too long"))
    response.results.add().error.MergeFrom(pb.ItemError(code=99, message="odd"))
    monkeypatch.setattr(client.Client, "classify_sentences", lambda *_, **__: response)
    about = pb.DescribeModelResponse(actual_execution_provider="P")
    monkeypatch.setattr(client.Client, "describe", lambda *_: about)
    code, out, _ = main(capsys, "classify", "--model", "m", "--text", "a", "b")
    assert code == 1
    what_ran, *answers = out.splitlines()
    assert what_ran == "m version 1 on P, not verified"
    assert answers == ["a", "  INVALID_ARGUMENT: too long", "b", "  status 99: odd"]


def test_answers_are_printed_though_nothing_tells_what_gave_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(*_: object) -> pb.DescribeModelResponse:
        raise client.CallFailed(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")

    response = pb.ClassifySentencesResponse(model_name="m", model_version="1")
    response.results.add().classification.scored_labels.add(label="good", probability=0.5)
    monkeypatch.setattr(client.Client, "classify_sentences", lambda *_, **__: response)
    monkeypatch.setattr(client.Client, "describe", describe)
    code, out, error = main(capsys, "classify", "--model", "m", "--text", "a")
    assert (code, out.splitlines()) == (1, ["m version 1", "a", "    0.5000  good"])
    assert error.startswith("convserve: RESOURCE_EXHAUSTED: too much; so its execution")
    assert error.count("\n") == 1


def test_a_version_that_is_gone_by_then_is_not_called_unverified(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    response = pb.ClassifySentencesResponse(model_name="m", model_version="1")
    response.results.add()
    gone = pb.DescribeModelResponse(state=pb.MODEL_STATE_UNAVAILABLE)
    monkeypatch.setattr(client.Client, "classify_sentences", lambda *_, **__: response)
    monkeypatch.setattr(client.Client, "describe", lambda *_: gone)
    code, out, error = main(capsys, "classify", "--model", "m", "--text", "a")
    assert (code, out.splitlines(), error) == (0, ["m version 1, no longer ready", "a"], "")


@pytest.mark.parametrize("server", ["[::1]:8001", "unix:/run/convserve.sock", "dns:///models:8001"])
def test_a_call_is_made_as_the_flags_say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    made = MagicMock()
    called = made.return_value.__enter__.return_value
    called.classify_sentences.return_value = response = pb.ClassifySentencesResponse(model_name="m", model_version="7")
    response.results.add()
    response.explanation.batch_size = 3
    called.describe.return_value = pb.DescribeModelResponse(verified=True, actual_execution_provider="P")
    monkeypatch.setattr("service.client.classify.Client", made)
    flags = ["--model-version", "7", "--top-k", "2", "--timeout-seconds", "4", "--explain"]
    code, out, _ = main(capsys, "classify", "--server", server, "--model", "m", *flags, "--text", "a")
    assert (code, out.splitlines()) == (0, ["m version 7 on P, verified", "a", "batch_size: 3"])
    made.assert_called_once_with(server, client.Credentials(), timeout_seconds=4.0)
    called.classify_sentences.assert_called_once_with("m", ["a"], model_version="7", top_k=2, explain=True)
    called.describe.assert_called_once_with("m", "7")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        ([], 2),
        (["dance"], 2),
        (["serve", "--prot", "1"], 2),
        (["serve", "--lame-duck-second", "3"], 2),
    ],
)
def test_the_parser_ends_the_command(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == code
    output = capsys.readouterr()
    assert arguments != ["--version"] or output.out == f"convserve {__version__}\n"


def test_a_flag_without_a_value_is_told_in_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--grpc-port"])
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: convserve serve ")
    assert error == "convserve serve: error: argument --grpc-port: expected one argument"


def test_the_package_can_be_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["service", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("service", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"convserve {__version__}\n"


def test_every_command_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["serve"], ["classify"], ["inspect"]):
        with pytest.raises(SystemExit):
            cli.main([*arguments, "--help"])
    text: Any = capsys.readouterr().out
    for word in ("--models", "--top-k", "MODEL_OR_REPOSITORY"):
        assert word in text

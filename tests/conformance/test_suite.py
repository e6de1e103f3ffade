"""The suite passes in full on this server, on both transports, and the command says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from bench.conformance.checks.calls import many_leave
from bench.conformance.outcome import Outcome, Result
from bench.conformance.registry import CHECKS, SECTIONS
from bench.conformance.report import by_section, lines, verdict
from bench.conformance.runner import Suite
from bench.conformance.target import Target
from service.client import Credentials
from tests.conformance.conftest import BUNDLED, GRAPHS, MIRRORS, explicit
from tests.integration.harness import DEADLINE_SECONDS, ROOT, ServerProcess, eventually


def test_every_section_has_checks():
    assert {check.section for check in CHECKS} == set(SECTIONS)


def passes_in_full(target: Target, transport: str) -> None:
    results = Suite(target, (*GRAPHS, *BUNDLED), MIRRORS, may_unload=True).run()
    short = [result for result in results if result.outcome in (Outcome.FAIL, Outcome.UNSUPPORTED)]
    fallen_short = [lines(result) for result in short if not _is_known(result, transport)]
    assert not fallen_short, "\n".join(fallen_short)
    verdicts = {section: verdict(found) for section, found in by_section(results).items()}
    assert verdicts == dict.fromkeys(SECTIONS, Outcome.PASS)


def test_passes_in_full(server: ServerProcess):
    with Target(f"127.0.0.1:{server.grpc_port}", DEADLINE_SECONDS) as target:
        passes_in_full(target, server.transport)


def test_passes_in_full_over_tls(repository: Path, tmp_path: Path):
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ("--tls-certificate", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "server.pem"))
    with (
        explicit(repository, "grpcio", *tls, wait_ready=False) as running,
        Target(f"127.0.0.1:{running.grpc_port}", DEADLINE_SECONDS, Credentials(ca=tmp_path / "ca.pem")) as target,
    ):
        eventually(lambda: target.call("ServerReady").ready, "the server is ready")
        passes_in_full(target, "grpcio")


def test_nothing_fails_where_callers_may_not_load(default_server: ServerProcess):
    with Target(f"127.0.0.1:{default_server.grpc_port}", DEADLINE_SECONDS) as target:
        results = Suite(target, ["grid"], may_unload=True).run(["extensions", "repository"])
    assert not [lines(result) for result in results if result.outcome is Outcome.FAIL]
    unsupported = {result.check for result in results if result.outcome is Outcome.UNSUPPORTED}
    assert "a model can be unloaded, is then unavailable, and can be loaded again" in unsupported


def _is_known(result: Result, transport: str) -> bool:
    """Tell of the one thing that docs/protocol.md says the native door cannot do; it comes and goes with the load."""
    (known,) = [check.demand for check in CHECKS if check.run is many_leave]
    return (transport, result.outcome, result.check) == ("native", Outcome.UNSUPPORTED, known)


def test_an_exception_is_made_for_a_check_of_the_suite():
    (check,) = [check for check in CHECKS if check.demand.startswith("32 callers who cancel at once")]
    result = Result(check.section, check.demand, check.source, "strings", Outcome.UNSUPPORTED, "", 0.0)
    assert _is_known(result, "native")
    assert not _is_known(result, "grpcio")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", "conformance", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False,
    )  # fmt: skip


def test_the_command_prints_a_table_and_writes_a_file(small_server: ServerProcess, tmp_path):
    file = tmp_path / "results.json"
    address = f"127.0.0.1:{small_server.grpc_port}"
    done = command(address, "--model", "datatypes", "--section", "ids", "--section", "health", "--json", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert "| ids     | PASS " in done.stdout
    written = json.loads(file.read_text())
    assert written["server"] == "convserve"
    assert written["sections"] == {"health": "PASS", "ids": "PASS"}
    assert {result["section"] for result in written["results"]} == {"health", "ids"}


def test_identities_are_found_out_by_trying(small_server: ServerProcess):
    with Target(f"127.0.0.1:{small_server.grpc_port}", DEADLINE_SECONDS) as target:
        suite = Suite(target, ["datatypes"])
        suite.run(["health"])
    assert suite.models[0].mirrors == {f"y_{t.datatype}": f"x_{t.datatype}" for t in suite.models[0].inputs}


@pytest.mark.parametrize("there", [True, False])
def test_a_server_or_model_that_is_not_there_is_one_line(small_server: ServerProcess, there: bool):
    address = f"127.0.0.1:{small_server.grpc_port if there else 1}"
    done = command(address, "--model", "nothing", "--timeout-seconds", "5")
    said = "NOT_FOUND: no model 'nothing'" if there else f"{address}: no gRPC server answers at this address ("
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"convserve-bench: {said}")
    assert done.stderr.count("\n") == 1

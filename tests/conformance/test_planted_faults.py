"""A suite is worth what it finds: each planted fault fails its section."""

from __future__ import annotations

import pytest

from bench.conformance.outcome import Outcome, Result
from bench.conformance.registry import CHECKS, SECTIONS
from bench.conformance.report import lines
from bench.conformance.runner import Suite
from bench.conformance.target import Target
from tests.conformance.conftest import MIRRORS, SMALL
from tests.conformance.faults import FAULTS
from tests.conformance.proxy import Fault, proxy
from tests.integration.harness import ServerProcess

_HANGS_SECONDS = 1.5  # faults that never answer cost so much
_HANG = ("Watch never tells", "frozen", "answers only at the end", "unloading does nothing")


def asked(server: ServerProcess, sections: list[str], *faults: Fault, seconds: float = 30.0) -> list[Result]:
    with proxy(server.grpc_port, *faults) as address, Target(address, seconds) as target:
        return Suite(target, SMALL, {name: MIRRORS[name] for name in SMALL}, may_unload=True).run(sections)


def test_every_section_has_its_faults():
    assert list(FAULTS) == list(SECTIONS)


def test_without_a_fault_nothing_fails(small_server: ServerProcess):
    results = asked(small_server, [])
    assert not [lines(result) for result in results if result.outcome is Outcome.FAIL]


@pytest.mark.parametrize("section", SECTIONS)
def test_each_is_found_and_each_check_finds_one(small_server: ServerProcess, section: str):
    found: set[str] = set()
    for name, fault in FAULTS[section].items():
        seconds = _HANGS_SECONDS if name in _HANG else 30.0
        results = asked(small_server, [section], fault, seconds=seconds)
        failed = {result.check for result in results if result.outcome is Outcome.FAIL}
        assert failed, (name, [lines(result) for result in results])
        found |= failed
    assert not {check.demand for check in CHECKS if check.section == section} - found


def test_every_mistake_is_found_alone(small_server: ServerProcess):
    """With the wrong code for all mistakes, every check of a mistake fails: none passes by accident."""
    results = asked(small_server, ["errors"], FAULTS["errors"]["INTERNAL for INVALID_ARGUMENT"])
    passed = {result.check for result in results if result.outcome is Outcome.PASS}
    assert not [check for check in passed if check.endswith("is INVALID_ARGUMENT")]


def test_one_check_never_stops_the_others(small_server: ServerProcess):
    """A server that answers nonsense to everything still gets its whole table."""
    nonsense = [Fault(method, lambda *_: b"\xff\xff") for method in ("ModelInfer", "ModelConfig", "ModelStatistics")]
    results = asked(small_server, ["config", "statistics", "ids", "health"], *nonsense)
    assert {result.section for result in results} >= {"metadata", "config", "statistics", "health"}

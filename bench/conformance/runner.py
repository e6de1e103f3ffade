"""Runs the checks; a failure of one does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import grpc

from bench.conformance import checks  # noqa: F401 - fills the registry
from bench.conformance.model import Model, learn
from bench.conformance.outcome import CallFailed, CheckFailed, NotApplicable, Outcome, Result, Unsupported
from bench.conformance.registry import Check, chosen
from bench.conformance.target import REQUIRED_METHODS, Target

Progress = Callable[[Result], None]


class Suite:
    """One run against one server, and what a check may use.

    Attributes:
        target: The server.
        models: The models under test that could be learned.
        may_unload: Whether the models may be unloaded and loaded again.
    """

    def __init__(
        self,
        target: Target,
        names: Sequence[str],
        mirrors: Mapping[str, Mapping[str, str]] | None = None,
        *,
        may_unload: bool = False,
    ) -> None:
        """Wire up.

        Args:
            target: The server.
            names: Of the models to check.
            mirrors: For each model, the argument of :func:`bench.conformance.model.learn`.
            may_unload: Whether the models may be unloaded and loaded again.
        """
        self.target = target
        self.models: list[Model] = []
        self.may_unload = may_unload
        self._names = names
        self._mirrors = mirrors or {}

    @cached_property
    def extensions(self) -> frozenset[str]:
        """The extensions that ServerMetadata lists."""
        return frozenset(self.target.call("ServerMetadata").extensions)

    def needs_extension(self, name: str) -> None:
        """Require that the server lists an extension.

        Raises:
            Unsupported: It does not.
        """
        if name not in self.extensions:
            raise Unsupported(f"the server does not list the extension '{name}'")

    def run(self, sections: Sequence[str] = (), progress: Progress = lambda _: None) -> list[Result]:
        """Run the checks of some sections, or all checks; return the results."""
        results = [result for name in self._names if (result := self._learn(name)) is not None]
        for result in results:
            progress(result)
        for check in chosen(sections):
            for model in self.models if check.of_model else (None,):
                result = self._ask(check, model)
                progress(result)
                results.append(result)
        return results

    def _learn(self, name: str) -> Result | None:
        try:
            self.models.append(learn(self.target, name, self._mirrors.get(name)))
        except (CallFailed, CheckFailed) as error:
            demand, source = "a model says what it takes and gives", "OIP, ModelMetadata"
            return Result("metadata", demand, source, name, Outcome.FAIL, str(error), 0.0)
        return None

    def _ask(self, check: Check, model: Model | None) -> Result:
        started = time.perf_counter()
        outcome, message = Outcome.PASS, ""
        try:
            check.run(self) if model is None else check.run(self, model)
        except NotApplicable as error:
            outcome, message = Outcome.SKIPPED, str(error)
        except Unsupported as error:
            outcome, message = Outcome.UNSUPPORTED, str(error)
        except CheckFailed as error:
            outcome, message = Outcome.FAIL, str(error)
        except CallFailed as error:
            missing = error.code is grpc.StatusCode.UNIMPLEMENTED and error.method not in REQUIRED_METHODS
            outcome = Outcome.UNSUPPORTED if missing else Outcome.FAIL
            message = str(error) if missing else f"expected an answer, got: {error}"
        except Exception as error:
            outcome, message = Outcome.FAIL, f"what came could not be read: {type(error).__name__}: {error}"
        name = model.name if model else ""
        seconds = time.perf_counter() - started
        return Result(check.section, check.demand, check.source, name, outcome, message, seconds)

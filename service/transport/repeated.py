"""A refusal for overload, and the calls that are told the same before anything is made of them.

Past capacity most calls are like the last one and find what it found. Saying so again costs less than finding
it out, and what it costs is taken from those who are answered.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.batching.refusal import Refusal
from service.errors import DeadlineUnmeetable
from service.transport.template import Template


@dataclass(frozen=True, slots=True)
class RepeatedRefusal:
    """Of one ModelInfer call; asked about later ones.

    Attributes:
        template: Of its message.
        size: Of its message, in bytes.
        refusal: The batcher's.
        error: What its caller was told.
        handicap: For its priority.
        patience_seconds: The most that a call like it waits, by its own timeout and the model's objective.
    """

    template: Template
    size: int
    refusal: Refusal
    error: DeadlineUnmeetable
    handicap: float
    patience_seconds: float

    def is_like(self, payload: bytes) -> bool:
        """Tell whether a message says the same, but for its tensors and id."""
        return len(payload) == self.size and self.template.fits(payload)

    def covers(self, deadline: float, now: float) -> bool:
        """Tell whether the batcher refuses a call with such a message for the same reason, and count it then."""
        template = self.template
        deadline = min(deadline, now + self.patience_seconds)
        batcher = template.form.servable.batcher
        return batcher.repeat(self.refusal, template.rows, template.group, deadline, self.handicap)


def repeated_refusal(template: Template, payload: bytes, error: DeadlineUnmeetable) -> RepeatedRefusal | None:
    """Return what may be told others after a call of tensors was refused; None if it holds for nobody else."""
    servable = template.form.servable
    refusal = servable.batcher.last_refusal
    if refusal is None or servable.shared is not None:  # shared: others may have their answer there
        return None
    patience = min(template.timeout_seconds, servable.objective_seconds)
    handicap = servable.priorities.handicap(template.priority)
    return RepeatedRefusal(template, len(payload), refusal, error, handicap, patience)

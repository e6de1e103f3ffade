"""What can go wrong between a data set and a published version, one class a place of failure.

Each message is written for the person at the command line: it names the file, the row or the key,
what was expected and what came. ``export.cli`` prints it as one line and exits with status 2.
"""

from __future__ import annotations


class ExportError(Exception):
    """A failure that the user can mend; the message says how."""


class RecipeInvalid(ExportError):
    """A recipe is missing, not TOML, or has an unknown, missing or impossible key."""


class DataInvalid(ExportError):
    """A data set is missing, empty, or has a row that cannot be read; names file and row."""


class RunInvalid(ExportError):
    """A run folder is missing, damaged, unfinished, or belongs to another recipe or data set."""


class WeightsInvalid(ExportError):
    """A file of weights is missing, damaged, or does not fit the network; lists what does not."""


class ConversionFailed(ExportError):
    """The graph that came out of the conversion is not what the service expects."""


class VerificationFailed(ExportError):
    """The graph does not give torch's answers within the tolerance, or a version contradicts itself."""


class QuantizationRefused(ExportError):
    """A quantised version loses more than allowed, the method does not fit the graph, or the data are other ones."""


class PublishFailed(ExportError):
    """The version exists already, or the repository cannot be written."""

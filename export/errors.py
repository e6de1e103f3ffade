"""Errors between a data set and a published version, one class per stage.

Each message is written for the person at the command line. It names the file, the row or the key,
what was expected and what came. ``export.cli`` prints it in one line and exits with status 2.
"""

from __future__ import annotations


class ExportError(Exception):
    """A failure that the user can fix; the message says how."""


class RecipeInvalid(ExportError):
    """A recipe is missing or is not TOML, or one of its keys is unknown, missing or invalid."""


class DataInvalid(ExportError):
    """A data set is missing or empty, or a row cannot be read. The message names file and row."""


class RunInvalid(ExportError):
    """A run folder is missing, damaged, unfinished, or belongs to another recipe or data set."""


class WeightsInvalid(ExportError):
    """A weights file is missing or damaged, or does not fit the network. The message lists what does not fit."""


class ConversionFailed(ExportError):
    """The converted graph is not what the server expects."""


class VerificationFailed(ExportError):
    """The graph does not reproduce torch's answers within the tolerance, or a version contradicts its manifest."""


class QuantizationRefused(ExportError):
    """A quantised version loses too much accuracy, or the method does not fit the graph, or the data differ."""


class PublishFailed(ExportError):
    """The version exists already, or the repository cannot be written."""

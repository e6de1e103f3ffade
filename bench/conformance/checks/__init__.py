"""The checks. Importing this package registers all of them."""

from bench.conformance.checks import (  # noqa: F401 - imported for the checks that they register
    answers,
    bytes_framing,
    calls,
    classification,
    contents,
    description,
    errors,
    extensions,
    health,
    log_settings,
    parameters,
    reflection,
    repository,
    shared_memory,
    statistics,
    stream,
    versions,
    wire,
)

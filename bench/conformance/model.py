"""What the suite knows of a model, learned over the wire, and requests made up for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import grpc
import numpy as np

from bench.conformance.outcome import CallFailed, CheckFailed, shortened
from bench.conformance.target import Target
from bench.conformance.tensors import (
    DTYPES,
    FIELDS,
    Tensor,
    extremes,
    from_raw,
    from_typed,
    make_array,
    same,
    to_raw,
)
from service.pb.inference import grpc_service_pb2 as pb

Arrays = dict[str, np.ndarray]
FREE_AXIS = 8  # the length given to a free axis that is not the batch
_ROWS_UNKNOWN = 4  # the most rows sent if ModelConfig does not say how many may be sent


@dataclass(frozen=True, slots=True)
class Model:
    """A model under test.

    Attributes:
        name: Of the model.
        versions: As ModelMetadata lists them; may be empty.
        inputs: In the model's order.
        outputs: In the model's order.
        batched: Whether the first axis is the batch.
        max_rows: Most rows that may be sent; 1 without a batch axis.
        limit_known: Whether ``max_rows`` is the server's word.
        optional: Names of inputs that may be left out.
        mirrors: The input that an output gives back, by output.
        free_axis: Length of every free axis but the batch in made-up arrays.
    """

    name: str
    versions: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batched: bool
    max_rows: int
    limit_known: bool
    optional: frozenset[str]
    mirrors: Mapping[str, str]
    free_axis: int = FREE_AXIS

    def arrays(self, rows: int = 1, seed: int = 0) -> Arrays:
        """Make up an array for each input; inputs that an output gives back get any value of their datatype."""
        mirrored = set(self.mirrors.values())
        return {
            tensor.name: make_array(tensor, self.shape(tensor, rows), seed, any_value=tensor.name in mirrored)
            for tensor in self.inputs
        }

    def extreme_arrays(self, rows: int, first: int) -> Arrays:
        """Like :meth:`arrays`, but inputs that come back hold values that are easily got wrong, from ``first`` on."""
        arrays = self.arrays(rows)
        for tensor in self.inputs:
            if tensor.name in self.mirrors.values():
                shape = self.shape(tensor, rows)
                arrays[tensor.name] = extremes(tensor.datatype, int(np.prod(shape)), first).reshape(shape)
        return arrays

    def shape(self, tensor: Tensor, rows: int) -> tuple[int, ...]:
        """Return a tensor's shape for ``rows`` rows, with a length for every free axis."""
        free = [self.free_axis if size == -1 else size for size in tensor.shape]
        return (rows, *free[1:]) if self.batched else tuple(free)

    def request(
        self,
        arrays: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
        *,
        typed: bool = False,
        request_id: str = "",
        version: str = "",
    ) -> pb.ModelInferRequest:
        """Build a request, inputs in the order of ``arrays``, outputs as asked for."""
        request = pb.ModelInferRequest(model_name=self.name, model_version=version, id=request_id)
        datatypes = {tensor.name: tensor.datatype for tensor in self.inputs}
        for name, array in arrays.items():
            tensor = request.inputs.add(name=name, datatype=datatypes[name], shape=array.shape)
            if typed:
                getattr(tensor.contents, FIELDS[datatypes[name]]).extend(array.ravel().tolist())
            else:
                request.raw_input_contents.append(to_raw(array))
        for name in outputs:
            request.outputs.add(name=name)
        return request

    def valid_request(
        self, rows: int = 1, seed: int = 0, *, request_id: str = "", version: str = ""
    ) -> pb.ModelInferRequest:
        """Build a request that must succeed."""
        return self.request(self.arrays(rows, seed), request_id=request_id, version=version)

    def check_mirrors(self, given: Mapping[str, np.ndarray], came: Mapping[str, np.ndarray]) -> None:
        """Check that outputs which give an input back do so exactly.

        Raises:
            CheckFailed: One does not.
        """
        for output, source in self.mirrors.items():
            if output in came and not same(given[source], came[output], exact=True):
                raise CheckFailed(
                    f"output '{output}': expected input '{source}' back, {_described(given[source])}, "
                    f"got {_described(came[output])}"
                )

    def check_same(self, expected: Mapping[str, np.ndarray], came: Mapping[str, np.ndarray], when: str) -> None:
        """Check that two answers are equal; outputs that are computed may be rounded differently.

        Raises:
            CheckFailed: They are not.
        """
        for name, array in came.items():
            if name not in expected:
                raise CheckFailed(f"{when}: expected outputs {', '.join(expected)}, got '{name}'")
            if not same(expected[name], array, exact=name in self.mirrors):
                raise CheckFailed(
                    f"{when}: output '{name}': expected {_described(expected[name])}, got {_described(array)}",
                )


def learn(target: Target, name: str, mirrors: Mapping[str, str] | None = None) -> Model:
    """Ask a server what a model takes and gives.

    Args:
        target: The server.
        name: Of the model.
        mirrors: The input that each output gives back, if that is known; an empty mapping pairs them
            by place. None finds out by trying.

    Raises:
        CallFailed: The server does not say.
        CheckFailed: What it says makes no sense.
    """
    metadata = target.call("ModelMetadata", pb.ModelMetadataRequest(name=name))
    inputs, outputs = _tensors(metadata.inputs), _tensors(metadata.outputs)
    if not inputs or not outputs:
        raise CheckFailed(f"ModelMetadata of '{name}': expected inputs and outputs, got {shortened(metadata)}")
    batched = all(tensor.shape[:1] == (-1,) for tensor in (*inputs, *outputs))
    max_rows, limit_known, optional = (_ROWS_UNKNOWN if batched else 1), False, frozenset[str]()
    try:
        config = target.call("ModelConfig", pb.ModelConfigRequest(name=name)).config
    except CallFailed as failed:
        if failed.code is not grpc.StatusCode.UNIMPLEMENTED:
            raise
    else:
        batched, limit_known = config.max_batch_size > 0, True
        max_rows = max(1, config.max_batch_size)
        optional = frozenset(given.name for given in config.input if given.optional)
    versions = tuple(metadata.versions)
    known = mirrors or {}
    if mirrors is not None and not mirrors:
        known = {output.name: given.name for given, output in zip(inputs, outputs, strict=False)}
    model = Model(name, versions, inputs, outputs, batched, max_rows, limit_known, optional, known)
    return model if mirrors is not None else _with_mirrors_found(target, model)


def _with_mirrors_found(target: Target, model: Model) -> Model:
    """Send one request of distinct values; an output that equals an input of its kind gives it back."""
    given = model.arrays(min(model.max_rows, 4), seed=17)
    try:
        came = outputs_of(target.infer(model.request(given)))
    except (CallFailed, CheckFailed):
        return model
    found: dict[str, str] = {}
    for output in model.outputs:
        for tensor in model.inputs:
            alike = (tensor.datatype, tensor.shape) == (output.datatype, output.shape)
            if alike and output.name in came and same(given[tensor.name], came[output.name], exact=True):
                found[output.name] = tensor.name
    return dataclasses.replace(model, mirrors=found)


def outputs_of(response: pb.ModelInferResponse) -> Arrays:
    """Read the outputs of a response by name, from raw or typed contents.

    Raises:
        CheckFailed: They do not fit what the response says of them.
    """
    raw = response.raw_output_contents
    if raw and len(raw) != len(response.outputs):
        raise CheckFailed(f"expected a raw content for each of {len(response.outputs)} outputs, got {len(raw)}")
    arrays: Arrays = {}
    for number, output in enumerate(response.outputs):
        if output.datatype not in DTYPES:
            raise CheckFailed(f"output '{output.name}': expected a datatype of the protocol, got '{output.datatype}'")
        try:
            if raw:
                arrays[output.name] = from_raw(raw[number], output.datatype, output.shape)
            else:
                arrays[output.name] = from_typed(output.contents, output.datatype, output.shape)
        except (ValueError, OverflowError) as error:
            raise CheckFailed(f"output '{output.name}': expected contents that fit its shape, got {error}") from None
    return arrays


def _tensors(described: Iterable[pb.ModelMetadataResponse.TensorMetadata]) -> tuple[Tensor, ...]:
    tensors = tuple(Tensor(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in described)
    for tensor in tensors:
        if tensor.datatype not in DTYPES:
            raise CheckFailed(f"'{tensor.name}': expected a datatype of the protocol, got '{tensor.datatype}'")
    return tensors


def _described(array: np.ndarray) -> str:
    return f"{list(array.shape)} {array.ravel()[:8].tolist()}"

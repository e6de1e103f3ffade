"""A run that does not return, for real: a graph that loops for hours."""

from __future__ import annotations

import grpc
import numpy as np

from tests.integration.conftest import Embed
from tests.integration.harness import eventually, failure, infer_request

FOR_HOURS = np.array([[2**40]])
AT_ONCE = np.array([[1]])
ONES = np.ones((1, 4), dtype=np.float32)


def test_callers_are_answered_and_the_version_comes_back(embed: Embed):
    with embed(run_timeout_seconds=1.0, instances=1) as server:
        hanging = server.client.inference.ModelInfer.future(infer_request("loop", {"iterations": FOR_HOURS}))
        told = failure(hanging.result)
        assert told.code is grpc.StatusCode.INTERNAL
        assert told.message.startswith("the batch did not end in time (request id ")

        refusals: set[grpc.StatusCode] = set()

        def answers() -> bool:
            try:
                server.client.infer(infer_request("loop", {"iterations": AT_ONCE}))
            except grpc.RpcError as error:
                refusals.add(error.code())  # type: ignore[attr-defined]
                return False
            return True

        eventually(answers, "the version answers again")
        assert refusals <= {grpc.StatusCode.UNAVAILABLE}
        assert server.client.infer(infer_request("add-sub", {"a": ONES, "b": ONES})).model_name == "add-sub"
        eventually(lambda: server.metric("convserve_inflight_requests") == 0, "nothing is in flight")

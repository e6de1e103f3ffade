"""The model for Triton's Python backend: a batch of requests becomes one run."""

import numpy as np
import serving
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One process an instance, with one session."""

    def initialize(self, args):
        self.session = serving.session()

    def execute(self, requests):
        rows = [pb_utils.get_input_tensor_by_name(request, serving.INPUT).as_numpy() for request in requests]
        given = rows[0] if len(rows) == 1 else np.concatenate(rows)
        if serving.ENCODED:
            given = np.stack([serving.row(body) for body in given.ravel()])
        answer = self.session.run([serving.OUTPUT], {serving.INPUT: given})[0]
        responses, first = [], 0
        for mine in rows:
            output = pb_utils.Tensor(serving.OUTPUT, answer[first : first + len(mine)])
            responses.append(pb_utils.InferenceResponse([output]))
            first += len(mine)
        return responses

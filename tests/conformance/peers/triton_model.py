"""The model for Triton's Python backend."""

import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            outputs = []
            for name in request.requested_output_names():
                given = triton.get_input_tensor_by_name(request, "x" + name[1:])
                outputs.append(triton.Tensor(name, given.as_numpy()))
            responses.append(triton.InferenceResponse(outputs))
        return responses

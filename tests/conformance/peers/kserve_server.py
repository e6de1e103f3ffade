"""The models in KServe's model server, which leaves it to models to check what they get."""

import sys

from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput

import models


class Identity(Model):
    def __init__(self, name):
        super().__init__(name)
        self.ready = True

    async def get_input_types(self):
        return models.tensors(self.name, "x")

    async def get_output_types(self):
        return models.tensors(self.name, "y")

    async def predict(self, payload, headers=None, response_headers=None):
        known = {tensor["name"] for tensor in models.tensors(self.name, "x")}
        outputs = {}
        for given in payload.inputs:
            if given.name not in known:
                raise InvalidInput(f"no input '{given.name}'")
            output = InferOutput("y" + given.name[1:], list(given.shape), given.datatype)
            output.set_data_from_numpy(given.as_numpy(), binary_data=True)
            outputs[output.name] = output
        wanted = [output.name for output in payload.request_outputs or []] or list(outputs)
        if not outputs.keys() >= set(wanted):
            raise InvalidInput(f"outputs are {', '.join(outputs)}")
        return InferResponse(payload.id, self.name, [outputs[name] for name in wanted])


if __name__ == "__main__":
    server = ModelServer(grpc_port=int(sys.argv[1]), http_port=int(sys.argv[2]), workers=1, enable_grpc=True)
    server.start([Identity(name) for name in models.MODELS])

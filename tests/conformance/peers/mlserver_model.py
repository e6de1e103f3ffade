"""The model for MLServer, which leaves it to models to check what they get."""

from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse, ResponseOutput


class Identity(MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        given = {tensor.name: tensor for tensor in payload.inputs}
        outputs = []
        for name in [output.name for output in payload.outputs or self.outputs]:
            tensor = given.get("x" + name[1:])
            if tensor is None:
                raise InferenceError(f"no input for output '{name}'")
            outputs.append(ResponseOutput(name=name, shape=tensor.shape, datatype=tensor.datatype, data=tensor.data))
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=outputs)

"""The model for MLServer, which batches by itself where its settings say so."""

import serving
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Onnx(MLModel):
    """One session, run in the event loop: a thread would cost more than LeNet-5 does."""

    async def load(self):
        self.session = serving.session()
        return True

    async def predict(self, payload):
        given = NumpyCodec.decode_input(payload.inputs[0])
        answer = self.session.run([serving.OUTPUT], {serving.INPUT: given})[0]
        output = NumpyCodec.encode_output(serving.OUTPUT, answer)
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=[output])

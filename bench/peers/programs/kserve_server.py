"""The model in KServe's model server, which batches nothing itself: one run a call."""

import serving
from kserve import InferOutput, InferResponse, Model, ModelServer


class Onnx(Model):
    """One session, run in the event loop: a thread would cost more than LeNet-5 does."""

    def __init__(self, name):
        super().__init__(name)
        self.session = serving.session()
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        given = payload.inputs[0].as_numpy()
        answer = self.session.run([serving.OUTPUT], {serving.INPUT: given})[0]
        output = InferOutput(serving.OUTPUT, list(answer.shape), "FP32")
        output.set_data_from_numpy(answer, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    server = ModelServer(
        grpc_port=serving.PORT, http_port=serving.SPARE_PORT, workers=1, enable_grpc=True, access_log_format=None
    )
    server.start([Onnx(serving.NAME)])

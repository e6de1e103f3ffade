"""The model in LitServe: JSON with base64, which is what it takes besides forms; in batches."""

import base64

import litserve
import serving


class Model(litserve.LitAPI):
    """One process with one session."""

    def setup(self, device):
        self.session = serving.session()

    def decode_request(self, request):
        return serving.row(base64.b64decode(request["input"]))

    def batch(self, inputs):
        return inputs

    def predict(self, x):
        return serving.run(self.session, x if isinstance(x, list) else [x])

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"output": base64.b64encode(output.tobytes()).decode()}


if __name__ == "__main__":
    model = Model(max_batch_size=serving.BATCH, batch_timeout=0.001)
    server = litserve.LitServer(
        model, accelerator="cpu", workers_per_device=serving.INSTANCES, fast_queue=True, timeout=60
    )
    server.run(host="127.0.0.1", port=serving.PORT, num_api_servers=1, generate_client_file=False, log_level="warning")

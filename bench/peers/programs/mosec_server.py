"""The model in Mosec: raw bytes in, raw float32 out, in batches."""

import sys

import serving
from mosec import Server, Worker


class Model(Worker):
    """One process with one session."""

    def __init__(self):
        super().__init__()
        self.session = serving.session()

    def deserialize(self, data):
        return serving.row(data)

    def serialize(self, data):
        return data.tobytes()

    def forward(self, data):
        if serving.BATCH > 1:
            return list(serving.run(self.session, data))
        return serving.run(self.session, [data])[0]


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", str(serving.PORT), "--timeout", "60000", "--log-level", "warning"]
    server = Server()
    server.append_worker(Model, num=serving.INSTANCES, max_batch_size=serving.BATCH, max_wait_time=1)
    server.run()

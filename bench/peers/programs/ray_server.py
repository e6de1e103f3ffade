"""The model in Ray Serve: raw bytes in, raw float32 out, in batches, through its HTTP proxy."""

import signal

import ray
import serving
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=serving.INSTANCES, max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.1})
class Model:
    """One process with one session."""

    def __init__(self):
        self.session = serving.session()

    @serve.batch(max_batch_size=serving.BATCH, batch_wait_timeout_s=0.0)
    async def infer(self, bodies):
        return list(serving.run(self.session, [serving.row(body) for body in bodies]))

    async def __call__(self, request: Request):
        body = await request.body()
        answer = await self.infer(body) if serving.BATCH > 1 else serving.run(self.session, [serving.row(body)])[0]
        return Response(answer.tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": serving.PORT}, logging_config={"enable_access_log": False})
    serve.run(Model.bind())
    signal.sigwait([signal.SIGTERM, signal.SIGINT])
    serve.shutdown()
    ray.shutdown()

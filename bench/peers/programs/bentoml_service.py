"""The model in BentoML: JSON with base64, in adaptive batches or in none."""

import base64

import bentoml
import serving

BATCHES = {"batchable": True, "max_batch_size": serving.BATCH, "max_latency_ms": 60_000} if serving.BATCH > 1 else {}


@bentoml.service(workers=serving.INSTANCES, traffic={"timeout": 60, "max_concurrency": 1024}, metrics={"enabled": True})
class Model:
    """One process with one session."""

    def __init__(self):
        self.session = serving.session()

    @bentoml.api(**BATCHES)
    def infer(self, data: list[str]) -> list[str]:
        rows = serving.run(self.session, [serving.row(base64.b64decode(text)) for text in data])
        return [base64.b64encode(row.tobytes()).decode() for row in rows]

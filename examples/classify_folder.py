"""Classify all pictures of a folder, many at once, and print one line each: an example of ``service.client``.

Usage: python examples/classify_folder.py HOST:PORT MODEL FOLDER

TLS and a token come from the environment (``CONVSERVE_CLIENT_TLS_CA``, ``CONVSERVE_CLIENT_TOKEN``, …). Exits 1 if a
picture could not be classified.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from service.client import AsyncClient, CallFailed, CredentialsInvalid, credentials_of
from service.pb.convserve.classification.v1.classification_pb2 import ClassificationResult

IN_FLIGHT = 16  # concurrent calls: enough for the server to batch, few enough not to queue
PICTURES_A_CALL = 8


async def main(server: str, model: str, folder: str) -> int:
    """Classify; return the exit code."""
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    calls = [files[at : at + PICTURES_A_CALL] for at in range(0, len(files), PICTURES_A_CALL)]
    turns = asyncio.Semaphore(IN_FLIGHT)
    # An overloaded server says when to retry. The client waits that long, or some seconds for one that restarts.
    async with AsyncClient(server, credentials_of(), timeout_seconds=60, attempts=5) as client:

        async def classified(paths: list[Path]) -> list[tuple[str, ClassificationResult]]:
            async with turns:
                response = await client.classify_images(model, [path.read_bytes() for path in paths], top_k=1)
            return [(path.name, result) for path, result in zip(paths, response.results, strict=True)]

        results = [pair for pairs in await asyncio.gather(*map(classified, calls)) for pair in pairs]
    for name, result in results:
        if result.HasField("error"):  # only this picture failed
            print(name, result.error.message, sep="\t")
        for best in result.classification.scored_labels:
            print(name, best.label, f"{best.probability:.4f}", sep="\t")
    return int(any(result.HasField("error") for _, result in results))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        sys.exit(asyncio.run(main(*sys.argv[1:])))
    except CallFailed as failed:
        sys.exit(f"{failed} (request id {failed.request_id})" if failed.request_id else str(failed))
    except (CredentialsInvalid, ValueError, OSError) as error:  # ValueError: no HOST:PORT
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)  # 128 + SIGINT, as shells count

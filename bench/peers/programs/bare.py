"""ONNX Runtime in a loop, with nothing around it: the limit of what a server can reach.

Reads commands as JSON from standard input, one a line, and answers each with a line of JSON:

- ``{"answer": FILE.npz}``: answers the rows of that file, as they would be sent; gives ``top_1``, a number a row
- ``{"in_flight": N, "seconds": S, "best": true|false}``: runs at most N rows at once for S seconds. With ``best`` it
  first tries batches and threads for the greatest throughput; without, it runs N rows on one thread. Gives
  ``batch``, ``loops``, ``threads``, ``answers``, ``seconds``, ``p50_ms`` and ``p99_ms`` of a run
"""

import json
import sys
import threading
import time

import numpy as np
import serving


def measure(sessions, batch, seconds):
    """Let every session run batches in a thread of its own; return answers, seconds and latencies in seconds."""
    given = np.stack([serving.row(ROWS[0])] * batch)
    took = [[] for _ in sessions]
    start = time.perf_counter()
    stop = start + seconds

    def loop(session, mine):
        before = time.perf_counter()
        while before < stop:
            if serving.ENCODED:  # decoding is part of the limit
                session.run([serving.OUTPUT], {serving.INPUT: np.stack([serving.row(ROWS[0]) for _ in range(batch)])})
            else:
                session.run([serving.OUTPUT], {serving.INPUT: given})
            now = time.perf_counter()
            mine.append(now - before)
            before = now

    threads = [threading.Thread(target=loop, args=pair) for pair in zip(sessions, took, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies = [second for mine in took for second in mine]
    return batch * len(latencies), time.perf_counter() - start, latencies


def setups(in_flight):
    """Yield what may be tried: batch, loops, threads a run; loops times batch is at most what is in flight."""
    batch = 1
    while batch <= in_flight:
        yield batch, 1, 1
        yield batch, 1, 2
        if 2 * batch <= in_flight:
            yield batch, 2, 1
        batch *= 2


def obey(command):
    """Do what a command says."""
    if "answer" in command:
        with np.load(command["answer"]) as rows:
            ROWS[:] = [rows[name].tobytes() for name in rows.files]
        return {"top_1": [int(serving.run(OPENED(1)[0], [serving.row(body)])[0].argmax()) for body in ROWS]}
    in_flight, seconds = command["in_flight"], command["seconds"]
    batch, loops, threads = in_flight, 1, 1
    if command["best"]:
        trial = min(0.3, seconds / 4)
        rates = {}
        for setup in setups(in_flight):
            measure(OPENED(setup[2])[: setup[1]], setup[0], trial / 3)  # the first run of a shape costs more
            answers, took, _ = measure(OPENED(setup[2])[: setup[1]], setup[0], trial)
            rates[setup] = answers / took
        batch, loops, threads = max(rates, key=rates.get)
    sessions = OPENED(threads)[:loops]
    measure(sessions, batch, seconds / 10)
    cpu = time.process_time()
    answers, took, latencies = measure(sessions, batch, seconds)
    cpu = time.process_time() - cpu
    p50_ms, p99_ms = np.percentile(latencies, (50, 99), method="inverted_cdf") * 1e3
    return {
        "batch": batch,
        "loops": loops,
        "threads": threads,
        "answers": answers,
        "seconds": took,
        "cpu_seconds": cpu,
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
    }


SESSIONS, ROWS = {}, []


def OPENED(threads):  # noqa: N802 - stands beside the tables that it fills
    """Return the sessions of so many threads a run: two for one thread, else one."""
    if threads not in SESSIONS:
        SESSIONS[threads] = [serving.session(threads) for _ in range(2 if threads == 1 else 1)]
    return SESSIONS[threads]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(obey(json.loads(line))), flush=True)

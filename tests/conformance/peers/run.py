"""Run the conformance suite against peers from PyPI and print the table of docs/protocol.md.

    .venv/bin/python -m tests.conformance.peers.run FOLDER [PEER …]

FOLDER keeps an environment a peer, its models, its log and its results. Linux on x86-64.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc

import bench.peers
from bench.peers.base import Peer, Place, free_port
from bench.peers.environment import Environment
from bench.peers.mlserver import start as start_mlserver
from bench.peers.triton import server
from service.pb.inference import grpc_service_pb2 as pb
from tests.conformance.peers import models
from tests.integration import graphs

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
_READY_SECONDS = 120

Command = tuple[list[str], dict[str, str]]


def home(folder: Path, peer: Peer) -> Environment:
    """Make a peer's environment once, with what it is measured with in ``convserve-bench compare``."""
    made = Environment(folder / "venv")
    made.make(peer.requirements)
    return made


def convserve(folder: Path, port: int) -> Command:
    repository = folder / "models"
    shutil.rmtree(repository, ignore_errors=True)
    graphs.write(repository, "datatypes", graphs.every_datatype())
    graphs.write(repository, "scores", graphs.identity(1, ("N", 4)))
    command = [sys.executable, "-m", "service", "serve", "--models", str(repository), "--grpc-port", str(port)]
    return [*command, "--http-port", "0", "--model-control-mode", "explicit", "--load-models", "*"], {}


def triton(folder: Path, port: int) -> Command:
    """Triton's server comes in the wheel of PyTriton, with its Python backend only."""
    start, variables = server(home(folder, bench.peers.PEERS["triton"]))
    for name in models.MODELS:
        version_folder = folder / "models" / name / "1"
        version_folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "triton_model.py", version_folder / "model.py")
        config = [f'name: "{name}" backend: "python" max_batch_size: 32 dynamic_batching {{}}']
        for field, prefix in (("input", "x"), ("output", "y")):
            for tensor in models.tensors(name, prefix):
                kind = "TYPE_" + tensor["datatype"].replace("BYTES", "STRING")
                config.append(
                    f'{field} [{{ name: "{tensor["name"]}" data_type: {kind} dims: [{tensor["shape"][1]}] }}]'
                )
        (version_folder.parent / "config.pbtxt").write_text("\n".join(config) + "\n")
    command = [*start, f"--model-repository={folder / 'models'}", f"--grpc-port={port}"]
    command += ["--model-control-mode=explicit", "--load-model=*"]
    variables["PATH"] = f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}"
    return [*command, "--allow-http=false", "--allow-metrics=false", "--exit-timeout-secs=3"], variables


def mlserver(folder: Path, port: int) -> Command:
    place = Place(folder, home(folder, bench.peers.PEERS["mlserver"]), port, free_port())
    for name in models.MODELS:
        (folder / "models" / name).mkdir(parents=True, exist_ok=True)
        settings = {
            "name": name, "implementation": "mlserver_model.Identity", "platform": "python", "versions": ["1"],
            "inputs": models.tensors(name, "x"), "outputs": models.tensors(name, "y"), "parameters": {"version": "1"},
        }  # fmt: skip
        (folder / "models" / name / "model-settings.json").write_text(json.dumps(settings))
    command = start_mlserver(place, folder / "models", {"PYTHONPATH": str(HERE)})
    return [*command.argv], {**command.variables}


def kserve(folder: Path, port: int) -> Command:
    python = home(folder, bench.peers.PEERS["kserve"]).python
    return [str(python), str(HERE / "kserve_server.py"), str(port), str(free_port())], {}


PEERS: dict[str, Callable[[Path, int], Command]] = {
    "convserve": convserve, "triton": triton, "mlserver": mlserver, "kserve": kserve,
}  # fmt: skip


def wait_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + _READY_SECONDS
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        while time.monotonic() < give_up and process.poll() is None:
            try:
                if pb.ServerReadyResponse.FromString(ready(b"", timeout=5, wait_for_ready=True)).ready:
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.1)
    raise SystemExit("it did not become ready: see its log")


def ask(name: str, folder: Path) -> dict:
    """Start a peer, run the suite against it, stop it; return the results."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command, variables = PEERS[name](folder, port)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=log, stderr=log, cwd=ROOT)
        try:
            wait_ready(port, process)
            suite = [sys.executable, "-m", "bench", "conformance", f"127.0.0.1:{port}", "--load-unload"]
            suite += [f"--model={model}" for model in models.MODELS]
            with (folder / "report").open("wb") as report:
                subprocess.run([*suite, "--json", str(folder / "results.json")], cwd=ROOT, stdout=report, check=False)
        finally:
            process.terminate()
            process.wait(60)
    return json.loads((folder / "results.json").read_text())


def cell(results: list[dict]) -> str:
    """Write what came of a section in one peer."""
    counts = Counter(result["outcome"] for result in results)
    passed, failed, unsupported = counts["PASS"], counts["FAIL"], counts["UNSUPPORTED"]
    if not passed and not failed:
        return "unsupported" if unsupported else ""
    notes = [f"{failed} of {passed + failed}"] if failed else []
    notes += [f"{unsupported} unsupported"] if unsupported else []
    return ("**FAIL**" if failed else "PASS") + (f" ({', '.join(notes)})" if notes else "")


def table(answers: list[dict]) -> str:
    """Return the Markdown table."""
    head = ["section", *(f"{answer['server']} {answer['version']}" for answer in answers)]
    rows = [head, ["---"] * len(head)]
    for section in dict.fromkeys(result["section"] for answer in answers for result in answer["results"]):
        cells = [cell([r for r in answer["results"] if r["section"] == section]) for answer in answers]
        rows.append([section, *cells])
    counts = [Counter(result["outcome"] for result in answer["results"]) for answer in answers]
    totals = [f"{count['PASS']} / {count['FAIL']} / {count['UNSUPPORTED']}" for count in counts]
    rows.append(["passed / failed / unsupported", *totals])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    where = Path(sys.argv[1]).resolve()
    print(table([ask(peer, where / peer) for peer in sys.argv[2:] or PEERS]))

"""Triton: the server binary in the wheel of PyTriton, its Python backend running ONNX Runtime.

The wheel has no other backend. Tuned for two cores: dynamic batching without delay, up to as many rows as are in
flight; one thread a run; two instances, so two processes, and beside them a row with one instance, which costs less CPU
where the model is small. HTTP, metrics and logging are off. Triton's C++ backend for ONNX Runtime comes in NVIDIA's
container only; it spares the hop to a Python process, so it costs less than these rows say.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass

from bench.peers.base import MOST_ROWS, PROGRAMS, Case, Command, Place, program_variables
from bench.peers.doors import OverGrpc
from bench.peers.environment import Environment, pinned_onnxruntime


@dataclass(frozen=True)
class Triton(OverGrpc):
    """The server with so many instances of the model."""

    name: str
    instances: int
    takes_encoded = True
    encoded_axes = 2
    home = "triton"
    # The wheel's own dependencies are for its Python interface, which is not used; its backend needs NumPy 1.
    requirements = (("--no-deps", "nvidia-pytriton"), ("numpy<2", pinned_onnxruntime()))
    shows = ("nvidia-pytriton", "onnxruntime", "numpy")

    @property
    def tuning(self) -> str:
        """See :class:`bench.peers.base.Peer`."""
        return f"Python backend, {self.instances} instance(s), dynamic batching up to {MOST_ROWS}, one thread a run"

    def command(self, case: Case, place: Place) -> Command:
        """Write the repository."""
        model = place.folder / "models" / case.name
        shutil.rmtree(place.folder / "models", ignore_errors=True)
        (model / "1").mkdir(parents=True)
        shutil.copy(PROGRAMS / "triton_model.py", model / "1" / "model.py")
        shutil.copy(PROGRAMS / "serving.py", model / "1")  # a model sees its own folder and site-packages
        kind, dims = ("STRING", "1") if case.encoded else (case.datatype, ", ".join(map(str, case.row_shape)))
        config = f"""
name: "{case.name}" backend: "python" max_batch_size: {MOST_ROWS} dynamic_batching {{}}
input [{{ name: "{case.input}" data_type: TYPE_{kind} dims: [{dims}] }}]
output [{{ name: "{case.output}" data_type: TYPE_FP32 dims: [-1] }}]
instance_group [{{ count: {self.instances} kind: KIND_CPU }}]
"""
        (model / "config.pbtxt").write_text(config.lstrip())
        variables = program_variables(case, place, MOST_ROWS, self.instances)
        argv, own = server(place.environment)
        variables["PYTHONPATH"] += f":{own.pop('PYTHONPATH')}"
        flags = (f"--model-repository={place.folder / 'models'}", f"--grpc-port={place.port}", "--allow-http=false")
        quiet = ("--allow-metrics=false", "--log-info=false", "--exit-timeout-secs=3")
        return Command((*argv, *flags, *quiet), variables | own)


def server(environment: Environment) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the command and the variables that start the wheel's binary, given where the wheel is."""
    folder = environment.site / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = folder / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends" / "python")
    argv = (str(folder / "bin" / "tritonserver"), f"--backend-directory={folder / 'backends'}")
    libraries = str(environment.site / "nvidia_pytriton.libs")
    return argv, {"LD_LIBRARY_PATH": libraries, "PYTHONPATH": str(environment.site)}

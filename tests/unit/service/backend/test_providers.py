"""Which execution provider is asked for and which is told: an ONNX Runtime with CUDA, on hosts with and without."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.backend import onnx
from service.backend.base import Provider
from service.errors import ProviderUnavailable

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
NO_DRIVER = "libcuda.so.1: cannot open shared object file"
GRAPH = Path("model.onnx")


class FakeRuntime:
    """onnxruntime-gpu as it behaves: it always lists CUDA, and takes the CPU without a word where CUDA fails."""

    def __init__(self, *, driver: bool, device: bool, built_with_cuda: bool = True) -> None:
        self.asked: list[list[str]] = []
        self.preloaded = 0
        self._driver = driver
        self._runs = driver and device
        self._available = [CUDA, CPU] if built_with_cuda else [CPU]

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = SimpleNamespace(
            get_available_providers=lambda: self._available,
            preload_dlls=self._preload,
            SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda *_: None),
            InferenceSession=self._session,
        )
        monkeypatch.setattr(onnx, "ort", module)
        monkeypatch.setattr(onnx, "ctypes", SimpleNamespace(CDLL=self._load))

    def _preload(self) -> None:
        self.preloaded += 1

    def _load(self, name: str) -> None:
        if not self._driver:
            raise OSError(f"{name}: cannot open shared object file")

    def _session(self, _path: Path, _options: Any, providers: list[Any]) -> Any:
        names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        self.asked.append(names)
        got = names if self._runs else [CPU]
        return SimpleNamespace(
            get_providers=lambda: got,
            get_inputs=list,
            get_outputs=list,
            get_overridable_initializers=list,
        )


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_cuda_is_taken_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device: str
) -> None:
    runtime = FakeRuntime(driver=True, device=True)
    runtime.put_in(monkeypatch)
    with caplog.at_level(logging.WARNING):
        backend = onnx.OnnxBackend(GRAPH, device)
    assert backend.provider == Provider(device, CUDA, "cuda:0")
    assert runtime.preloaded == 1
    assert not caplog.messages


@pytest.mark.parametrize(
    ("driver", "asked", "why"),
    [(False, [CPU], NO_DRIVER), (True, [CUDA, CPU], "see ONNX Runtime's own lines above")],
)
def test_auto_falls_back_to_the_cpu_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, driver: bool, asked: list[str], why: str
) -> None:
    runtime = FakeRuntime(driver=driver, device=False)
    runtime.put_in(monkeypatch)
    with caplog.at_level(logging.WARNING):
        backend = onnx.OnnxBackend(GRAPH, "auto")
    assert backend.provider == Provider("auto", CPU, "cpu")
    assert runtime.asked == [asked]
    assert caplog.messages == [f"CUDA does not work here, so the CPU is used: {why}"]


@pytest.mark.parametrize(
    ("runtime", "why"),
    [
        (FakeRuntime(driver=False, device=False), NO_DRIVER),
        (FakeRuntime(driver=True, device=False), f"the session runs on {CPU}"),
        (FakeRuntime(driver=True, device=True, built_with_cuda=False), "this ONNX Runtime was built without it"),
    ],
)
def test_cuda_refuses_a_fallback_in_one_line(monkeypatch: pytest.MonkeyPatch, runtime: FakeRuntime, why: str) -> None:
    runtime.put_in(monkeypatch)
    with pytest.raises(ProviderUnavailable) as refused:
        onnx.OnnxBackend(GRAPH, "cuda")
    remedy = 'Use --device auto (in serving.toml: device = "auto") to allow the CPU'
    expected = f"device 'cuda' was requested, but CUDA does not work here: {why}. {remedy}"
    assert str(refused.value) == expected


@pytest.mark.parametrize(("device", "built_with_cuda"), [("cpu", True), ("auto", False)])
def test_nothing_is_said_where_the_cpu_is_meant(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device: str, built_with_cuda: bool
) -> None:
    runtime = FakeRuntime(driver=False, device=False, built_with_cuda=built_with_cuda)
    runtime.put_in(monkeypatch)
    with caplog.at_level(logging.WARNING):
        backend = onnx.OnnxBackend(GRAPH, device)
    assert backend.provider == Provider(device, CPU, "cpu")
    assert runtime.asked == [[CPU]]
    assert not caplog.messages

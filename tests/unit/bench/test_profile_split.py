"""CPU of threads divided by what samplers saw of them, recorded and made up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bench.profile import measure, samplers
from bench.profile.phases import Phase
from bench.profile.samplers import CpuSample
from bench.profile.split import Thread, by_phase, by_thread, split

RECORDED = Path(__file__).parent / "recorded"
RUNS = Thread(1, "m/0", True, 80.0)
TAKES = Thread(2, "intake", True, 15.0)
SPEAKS = Thread(3, "grpc-native-io", False, 5.0)
SERVE = "Batcher._serve (service/batching/batcher.py:258)"
MODEL = (("[unknown]", "/site-packages/onnxruntime/capi/onnxruntime_pybind11_state.so"),)
PYTHON = (("_PyEval_EvalFrameDefault", "/usr/lib/libpython3.11.so.1.0"),)
ASLEEP = (("__schedule", "[kernel.kallsyms]"), ("__x64_sys_futex", "[kernel.kallsyms]"))


def on_core(thread: Thread, *frames: tuple[tuple[str, str], ...]) -> list[CpuSample]:
    return [CpuSample(thread.number, one) for one in frames]


def test_perf_says_how_much_is_python_and_py_spy_which_functions():
    seen = [*on_core(RUNS, MODEL, MODEL, MODEL, PYTHON), *on_core(TAKES, PYTHON, PYTHON, ASLEEP)]
    answer = (SERVE, "Instance._answer (service/batching/instance.py:128)")
    in_python = {RUNS.number: Counter({(SERVE,): 3, answer: 1})}
    costs = split([RUNS, TAKES, SPEAKS], 100.0, seen, in_python)
    assert by_phase(costs) == pytest.approx(
        dict.fromkeys(Phase, 0.0)
        | {Phase.MODEL: 60.0, Phase.BATCH: 15.0, Phase.REPLY: 5.0}
        | {Phase.INTAKE: 10.0, Phase.THREADS: 5.0}  # no stack of it: the thread's own phase
        | {Phase.HTTP2: 5.0}  # no sample at all
    )
    assert by_thread(costs) == pytest.approx({"instances": 80.0, "intake": 15.0, "grpc-native-io": 5.0})


def test_what_perf_saw_within_the_runtime_is_not_seen_again():
    run = (SERVE, "Session.run (onnxruntime/capi/onnxruntime_inference_collection.py:383)")
    costs = split([RUNS], 80.0, on_core(RUNS, MODEL, PYTHON), {RUNS.number: Counter({(SERVE,): 1, run: 9})})
    assert by_phase(costs)[Phase.MODEL] == by_phase(costs)[Phase.BATCH] == pytest.approx(40.0)


def test_threads_of_a_kind_are_added_up():
    other = Thread(4, "m/1", True, 20.0)
    seen = [*on_core(RUNS, MODEL), *on_core(other, PYTHON, PYTHON, PYTHON)]
    costs = split([RUNS, other], 100.0, seen, {RUNS.number: Counter({(SERVE,): 1})})
    assert by_phase(costs)[Phase.MODEL] == pytest.approx(25.0)
    assert by_phase(costs)[Phase.BATCH] == pytest.approx(75.0)


def test_a_thread_of_onnx_runtime_s_pool_is_the_model_asleep_as_well():
    pool = Thread(5, "python", False, 10.0)
    costs = split([pool], 10.0, on_core(pool, MODEL, ASLEEP), {})
    assert by_phase(costs)[Phase.MODEL] == pytest.approx(10.0)
    assert by_thread(costs) == pytest.approx({"ONNX Runtime's threads": 10.0})


@pytest.mark.parametrize(("total", "rest"), [(110.0, 10.0), (100.0, 0.0), (99.0, 0.0)])
def test_the_parts_add_up_to_what_the_process_used(total: float, rest: float):
    costs = split([RUNS, TAKES, SPEAKS], total, on_core(RUNS, MODEL), {})
    assert sum(cost.cpu for cost in costs) == pytest.approx(total)
    assert by_phase(costs)[Phase.OTHER] == pytest.approx(rest)


def test_samples_of_threads_that_have_ended_count_for_nobody():
    costs = split([SPEAKS], 5.0, [CpuSample(99, MODEL)], {99: Counter({(SERVE,): 7})})
    assert by_phase(costs)[Phase.HTTP2] == pytest.approx(5.0)


def test_recordings_are_divided_without_a_rest():
    seen = [*samplers.parse_perf((RECORDED / "perf-script.txt").read_text())]
    in_python = samplers.parse_spy((RECORDED / "py-spy.raw").read_text())
    assert {sample.thread for sample in seen} == {16469, 16470, 16472, 16473}
    assert all(sample.frames for sample in seen)
    assert {number: stacks.total() for number, stacks in in_python.items()} == {16473: 44, 16470: 169, 16472: 40}
    names = {16469: "grpc-native-io", 16470: "intake", 16472: "textcnn-20k/0", 16473: "textcnn-20k/1"}
    threads = [Thread(number, name, number != 16469, 25.0) for number, name in names.items()]
    sums = by_phase(split(threads, 100.0, seen, in_python))
    assert sum(sums.values()) == pytest.approx(100.0)
    assert {phase for phase, cpu in sums.items() if not cpu} == {Phase.PREPARE}


def test_a_torn_stack_is_left_out():
    assert samplers.parse_spy("lost;half a frame 3\nthread (7): intake;a (b.py:1) 2\n") == {
        7: Counter({("a (b.py:1)",): 2})
    }


def test_a_batch_of_so_many_rows_on_average_lies_between_two():
    assert measure.around(4.8) == (4, 5)
    assert measure.around(4.0) == (4, 4)
    assert measure.around(0.9) == (1, 1)
    assert measure.between({4: 100.0}, 4.0) == 100.0
    assert measure.between({1: 100.0, 2: 60.0}, 1.5) == pytest.approx((100 + 120) / 3)

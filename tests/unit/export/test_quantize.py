from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from export import cli
from export.errors import QuantizationRefused
from export.publish_quantized import Wish, judge, measure_speed
from export.quantize import choose_excluded, shrink_tables, to_float16, weighty_nodes
from service.backend.onnx import OnnxBackend
from service.manifest import MODEL_FILE, read_manifest, write_manifest
from tests.unit.export.samples import picture_arrays, ready


def _recipe(run: Path) -> str:
    return str(run / "recipe.toml")


@pytest.fixture(scope="session")
def batches() -> list[np.ndarray]:
    images, _ = picture_arrays(5, seed=7)
    return [images[i : i + 10, :, :, np.newaxis] for i in range(0, 50, 10)]


def test_an_int8_version_is_measured_described_and_ready(
    models: Path, pictures: Path, picture_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = models / "lenet5-mnist" / "1"
    arguments = ["--data", str(pictures), "--recipe", _recipe(picture_run), "--to", str(tmp_path / "small")]
    assert cli.main(["quantize", str(source), *arguments, "--limit", "4"]) == 0
    said = capsys.readouterr().out
    assert "int8-static: top-1" in said
    assert "times at batch size 1" in said
    made, before = read_manifest(tmp_path / "small" / "1"), read_manifest(source)
    assert made.quantization is not None
    assert made.quantization.source_digest == before.model_digest
    assert made.quantization.accuracy_before == before.accuracy[0].value
    assert made.quantization.accuracy_loss == pytest.approx(before.accuracy[0].value - made.accuracy[0].value)
    assert (tmp_path / "small" / "1" / MODEL_FILE).stat().st_size < made.quantization.bytes_before / 2
    assert ready(tmp_path / "small" / "1").labels == ready(source).labels
    assert cli.main(["verify", str(tmp_path / "small" / "1")]) == 0


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train", "the training data of the version is sha256:"),
        ("test", "the size of the test split of the version is 50, these data have 30; give its own"),
    ],
)
def test_other_data_than_the_sources_are_refused(
    models: Path,
    pictures: Path,
    picture_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    split: str,
    message: str,
) -> None:
    data = shutil.copytree(pictures, tmp_path / "data")
    images, labels = picture_arrays(3, seed=9)
    np.savez(data / f"{split}.npz", images=images, labels=labels)
    arguments = ["--data", str(data), "--recipe", _recipe(picture_run), "--to", str(tmp_path / "small")]
    assert cli.main(["quantize", str(models / "lenet5-mnist" / "1"), *arguments, "--limit", "100"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("name", ["labels.txt", "golden.npz", MODEL_FILE])
def test_a_source_that_is_not_what_its_manifest_means_is_refused(
    models: Path, tmp_path: Path, picture_run: Path, pictures: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The made version would have digests of the wrong file, and they would hold."""
    source = shutil.copytree(models / "lenet5-mnist" / "1", tmp_path / "m" / "1")
    if name == "labels.txt":
        lines = (source / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (source / name).write_text("".join(reversed(lines)), encoding="utf-8")
    else:
        (source / name).write_bytes((source / name).read_bytes() + b"x")
    arguments = ["--data", str(pictures), "--recipe", _recipe(picture_run), "--method", "float16", "--limit", "100"]
    assert cli.main(["quantize", str(source), *arguments]) == 2
    assert "has digest sha256:" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_version_without_an_accuracy_is_refused_with_the_remedy(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(models / "lenet5-mnist" / "1", tmp_path / "m" / "1")
    manifest = read_manifest(source)
    write_manifest(dataclasses.replace(manifest, accuracy=()), source)
    assert cli.main(["quantize", str(source), "--data", str(pictures)]) == 2
    said = capsys.readouterr().err
    assert "has no accuracy in its manifest" in said
    assert said.endswith("give a version that publish made\n")


def test_another_number_of_folds_is_refused(
    models: Path, sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(sentences), "--to", str(tmp_path / "small")]  # the bundled recipe has 10
    assert cli.main(["quantize", str(models / "textcnn-mr" / "1"), *arguments, "--method", "float16"]) == 2
    assert "fold-0-of-4: the recipe has 10 folds" in capsys.readouterr().err
    assert cli.main(["evaluate", str(models / "textcnn-mr" / "1"), "--data", str(sentences)]) == 2
    assert "fold-0-of-4: the recipe has 10 folds" in capsys.readouterr().err


@pytest.mark.parametrize(("method", "share"), [("table-int8", 0.6), ("table-float16", 1.01)])
def test_tables_of_word_vectors_shrink(
    models: Path,
    sentences: Path,
    sentence_run: Path,
    tmp_path: Path,
    method: str,
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("export.quantize._LEAST_TABLE", 10)
    source = models / "textcnn-mr" / "1"
    arguments = ["--data", str(sentences), "--recipe", _recipe(sentence_run), "--to", str(tmp_path / "small")]
    assert cli.main(["quantize", str(source), *arguments, "--method", method, "--limit", "10"]) == 0
    assert ready(tmp_path / "small" / "1").verified
    table = {t.name: t for t in onnx.load(tmp_path / "small" / "1" / MODEL_FILE).graph.initializer}
    assert any(name.endswith(method.removeprefix("table-")) for name in table)
    del share


def test_half_precision_keeps_names_and_types(models: Path, tmp_path: Path, batches: list[np.ndarray]) -> None:
    source = models / "lenet5-mnist" / "1" / MODEL_FILE
    to_float16(source, tmp_path / "half.onnx")
    one, other = OnnxBackend(source, "cpu"), OnnxBackend(tmp_path / "half.onnx", "cpu")
    assert (one.inputs, one.outputs) == (other.inputs, other.outputs)
    assert np.abs(one.run([batches[0]])[0] - other.run([batches[0]])[0]).max() < 0.02
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * source.stat().st_size


def test_nodes_are_spared_only_while_the_damage_is_past_the_limit(
    models: Path, tmp_path: Path, batches: list[np.ndarray]
) -> None:
    source = models / "lenet5-mnist" / "1" / MODEL_FILE
    nodes = weighty_nodes(source)
    assert len(nodes) == 5
    culprit = nodes[1]

    def damage(path: Path) -> float:
        """Pretend that the second convolution costs everything."""
        names = {node.name for node in onnx.load(path).graph.node}
        quantised = any(name.startswith(f"{culprit}_") or name == f"{culprit}_quant" for name in names)
        inputs = next(
            node for node in onnx.load(path).graph.node if culprit in node.name and node.op_type == "Conv"
        ).input
        return 0.5 if quantised or "DequantizeLinear" in inputs[1] else 0.0

    said: list[str] = []
    assert choose_excluded(source, batches[:1], damage, 1.0, said.append) == ()
    assert choose_excluded(source, batches[:1], damage, 0.1, said.append) == (culprit,)
    assert "all nodes in int8: damage 50.00%" in said


def test_a_graph_without_convolutions_or_products_has_no_node_to_spare(tmp_path: Path) -> None:
    pictures = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", 3])
    sums = helper.make_tensor_value_info("sums", onnx.TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph([helper.make_node("Add", ["images", "images"], ["sums"])], "sum", [pictures], [sums])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "a.onnx")
    batches = [np.ones((2, 3), dtype=np.float32)]
    assert choose_excluded(tmp_path / "a.onnx", batches, lambda _: 1.0, 0.1, lambda _: None) == ()


def test_a_graph_without_a_table_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizationRefused, match="has no table"):
        shrink_tables(models / "lenet5-mnist" / "1" / MODEL_FILE, tmp_path / "x.onnx", "int8")


def test_a_row_of_an_int8_table_errs_by_half_a_step(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    table[0] = 0
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["rows"], axis=0)],
        "look-up",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(table, "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "a.onnx")
    shrink_tables(tmp_path / "a.onnx", tmp_path / "b.onnx", "int8")
    ids = np.arange(2000)
    rows = OnnxBackend(tmp_path / "b.onnx", "cpu").run([ids])[0]
    step = np.abs(table).max(axis=1, keepdims=True) / 127
    assert (np.abs(rows - table) <= step / 2 + 1e-6).all()
    assert not rows[0].any()


@pytest.mark.parametrize(
    ("loss", "wish", "is_refused"),
    [
        (0.0030, Wish("int8-static", 0.3, force=False), False),
        (0.0031, Wish("int8-static", 0.3, force=False), True),
        (0.0031, Wish("int8-static", 0.3, force=True), False),
        (-0.01, Wish("int8-static", 0.0, force=False), False),
    ],
)
def test_a_loss_past_the_limit_is_refused(loss: float, wish: Wish, is_refused: bool) -> None:
    if is_refused:
        with pytest.raises(QuantizationRefused, match=r"costs 0\.31 points of top-1, the limit is 0\.3; --limit"):
            judge(loss, wish)
    else:
        judge(loss, wish)


def test_speed_is_told_by_batch_size(models: Path, batches: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.publish_quantized._SPEED_SECONDS", 0.02)
    path = models / "lenet5-mnist" / "1" / MODEL_FILE
    speedup = measure_speed(path, path, batches[0])
    assert set(speedup) == {"1", "10"}
    assert all(value > 0 for value in speedup.values())

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import ManifestInvalid
from service.manifest import (
    MANIFEST_FILE,
    SCHEMA_VERSION,
    Accuracy,
    Dataset,
    Manifest,
    Parity,
    Provenance,
    Quantization,
    file_digest,
    parse_manifest,
    read_labels,
    read_manifest,
    write_manifest,
)
from service.spec import ImageSpec, TextSpec
from service.tensors import DTYPES, TensorSpec
from tests.unit.service.samples import manifest, text_manifest

_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_counts = st.integers(0, 2**63 - 1)
_shares = st.floats(0, 1)
_files = st.from_regex(r"[a-z]{1,6}\.txt", fullmatch=True)
_tensors = st.builds(
    TensorSpec, _names, st.sampled_from(sorted(DTYPES)), st.lists(st.integers(-1, 9), max_size=4).map(tuple)
)


@st.composite
def _image_specs(draw: st.DrawFn) -> ImageSpec:
    mode = draw(st.sampled_from(["L", "RGB"]))
    channels = 1 if mode == "L" else 3
    means = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=channels, max_size=channels)
    stds = st.lists(st.floats(1e-6, 9), min_size=channels, max_size=channels)
    size = st.integers(1, 500)
    return ImageSpec(
        "image",
        mode,
        draw(size),
        draw(size),
        draw(st.sampled_from(["exact", "shorter-edge"])),
        draw(size),
        draw(st.sampled_from(["nearest", "bilinear", "bicubic"])),
        tuple(draw(means)),
        tuple(draw(stds)),
    )


_quantizations = st.builds(
    Quantization,
    method=_names,
    source_digest=_names,
    calibration_count=_counts,
    excluded_nodes=st.lists(_names, max_size=2).map(tuple),
    accuracy_before=_shares,
    accuracy_loss=_shares,
    top1_agreement=_shares,
    speedup=st.dictionaries(_names, _shares, max_size=2),
    bytes_before=_counts,
    machine=_names,
)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    kind = draw(st.sampled_from(["image", "sentence", "tensor"]))
    common: dict[str, Any] = {
        "labels_file": draw(st.none() | _files),
        "max_batch_size": draw(st.integers(1, 10**12)),
        "provenance": draw(
            st.builds(
                Provenance,
                architecture=_names,
                recipe=_names,
                seed=st.none() | st.integers(-(2**63), 2**63 - 1),
                dataset=st.builds(Dataset, _names, _names),
                libraries=st.dictionaries(_names, _names, max_size=2),
                git_commit=_names,
                created=st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
            )
        ),
        "accuracy": tuple(
            draw(
                st.lists(
                    st.builds(Accuracy, _names, _shares, _shares, _names, _names, _counts, _shares, _shares),
                    max_size=2,
                )
            )
        ),
        "parity": draw(st.builds(Parity, _shares, _shares, st.lists(st.integers(1, 64)).map(tuple), _shares, _counts)),
        "model_digest": draw(_names),
        "quantization": draw(st.none() | _quantizations),
    }
    if kind == "tensor":
        tensors = st.lists(_tensors, max_size=3).map(tuple)
        return Manifest(1, "tensor", draw(tensors), draw(tensors), None, **common)
    common["labels_file"] = draw(_files)
    outputs = (TensorSpec(draw(_names), "FP32", (-1, draw(st.integers(1, 9)))),)
    if kind == "image":
        spec = draw(_image_specs())
        inputs = (TensorSpec(draw(_names), "UINT8", (-1, *spec.shape)),)
        return Manifest(1, "image-classification", inputs, outputs, spec, **common)
    text = TextSpec("text", draw(_files), 0, draw(st.integers(1, 9)), draw(st.integers(1, 99)))
    ids = (TensorSpec(draw(_names), "INT64", (-1, -1)),)
    return Manifest(1, "sentence-classification", ids, outputs, text, **common)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=manifests())
def test_reading_gives_back_what_was_written(tmp_path: Path, written: Manifest) -> None:
    write_manifest(written, tmp_path)
    assert read_manifest(tmp_path) == written


def as_json(source: Manifest) -> Any:
    return json.loads(json.dumps(dataclasses.asdict(source)))


def objects(data: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every object of parsed JSON that has fixed keys, with its place."""
    if isinstance(data, dict):
        if where != "provenance.libraries":
            yield where, data
        for key, value in data.items():
            yield from objects(value, f"{where}.{key}" if where else key)
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from objects(value, f"{where}[{number}]")


def _keys() -> list[tuple[str, str]]:
    """Every key of a manifest of each kind with the place of its object."""
    found = {
        (where, key) for source in (manifest(), text_manifest()) for where, holder in objects(as_json(source))
        for key in holder
    }  # fmt: skip
    return sorted(found - {("", "quantization"), ("", "digests")})  # versions made before they were known lack them


def holder_of(data: Any, where: str) -> dict[str, Any]:
    return dict(objects(data))[where]


def refusal(data: Any) -> str:
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(data)
    return str(caught.value)


@pytest.mark.parametrize(("where", "key"), _keys())
def test_a_missing_key_is_named_at_every_level(where: str, key: str) -> None:
    data = as_json(text_manifest() if key in dataclasses.asdict(text_manifest().preprocessing) else manifest())  # type: ignore[arg-type]
    del holder_of(data, where)[key]
    place = f"{where}.{key}" if where else key
    assert place in refusal(data).split(":")[0]


@pytest.mark.parametrize("where", sorted({where for where, _ in _keys()}))
def test_an_unknown_key_is_named_at_every_level(where: str) -> None:
    data = as_json(manifest())
    holder_of(data, where)["surprise"] = 1
    place = f"{where}.surprise" if where else "surprise"
    assert refusal(data).startswith(f"unknown key '{place}'; known: ")


@pytest.mark.parametrize(("where", "key"), _keys())
@pytest.mark.parametrize("wrong", [object(), True], ids=["object", "true"])
def test_a_value_of_another_type_is_named_at_every_level(where: str, key: str, wrong: object) -> None:
    data = as_json(text_manifest() if key in dataclasses.asdict(text_manifest().preprocessing) else manifest())  # type: ignore[arg-type]
    holder_of(data, where)[key] = wrong
    place = f"{where}.{key}" if where else key
    assert refusal(data).startswith(f"{place}: expected ")


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_another_schema_version_is_refused_before_anything_else(version: object) -> None:
    message = refusal({"schema_version": version, "no such key": 1})
    assert message == f"schema_version: expected 1 or {SCHEMA_VERSION}, got {version!r}"


@pytest.mark.parametrize("version", [True, 1.0])
def test_a_schema_version_that_only_equals_one_is_refused(version: object) -> None:
    assert refusal(as_json(manifest()) | {"schema_version": version}).startswith("schema_version: expected int")


DIGESTS = {"labels.txt": "sha256:01", "golden.npz": "sha256:02"}


def test_digests_are_of_every_file_that_is_needed() -> None:
    assert parse_manifest(as_json(manifest(schema_version=2, digests=DIGESTS))).digests == DIGESTS
    assert refusal(as_json(manifest(schema_version=2, digests=None))) == "missing key 'digests'"
    assert refusal(as_json(text_manifest(schema_version=2, digests=DIGESTS))) == "missing key 'digests.tokenizer.json'"
    for name in DIGESTS:
        lacking = {other: digest for other, digest in DIGESTS.items() if other != name}
        assert refusal(as_json(manifest(schema_version=2, digests=lacking))) == f"missing key 'digests.{name}'"
    assert refusal(as_json(manifest(digests=DIGESTS))) == "digests: unknown key in schema version 1"
    above = {**DIGESTS, "../labels.txt": "sha256:03"}
    assert refusal(as_json(manifest(schema_version=2, digests=above))).startswith("'../labels.txt': must be the name")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (manifest(max_batch_size=0), "max_batch_size: must be at least 1, got 0"),
        (manifest(preprocessing=None), "preprocessing: does not fit task 'image-classification'"),
        (manifest(task="tensor"), "preprocessing: does not fit task 'tensor'"),
        (manifest(task="sentence-classification"), "preprocessing.kind: does not fit task 'sentence-classification'"),
        (text_manifest(task="image-classification"), "preprocessing.kind: does not fit task 'image-classification'"),
        (manifest(labels_file=None), "labels_file: a classifier needs labels"),
        (manifest(labels_file="../labels.txt"), "'../labels.txt': must be the name of a file beside the manifest"),
        (manifest(labels_file="/etc/passwd"), "'/etc/passwd': must be the name of a file beside the manifest"),
        (
            text_manifest(preprocessing=dataclasses.replace(text_manifest().preprocessing, tokenizer_file="a/b")),  # type: ignore[type-var]
            "'a/b': must be the name of a file beside the manifest",
        ),
        (manifest(outputs=()), "inputs, outputs: a classifier has one input and outputs (N, K)"),
        (manifest(inputs=()), "inputs, outputs: a classifier has one input and outputs (N, K)"),
        (
            manifest(outputs=(TensorSpec("p", "FP32", (-1, 2, 3)),)),
            "inputs, outputs: a classifier has one input and outputs (N, K)",
        ),
        (manifest(outputs=(TensorSpec("p", "FP8", (-1, 3)),)), "tensor 'p': unknown datatype 'FP8'"),
        (
            manifest(inputs=(TensorSpec("images", "FP32", (-1, 2, 3, 1)),)),
            "inputs[0]: the preprocessing makes images UINT8 [-1, 2, 3, 1], "
            "the manifest says images FP32 [-1, 2, 3, 1]",
        ),
        (
            text_manifest(inputs=(TensorSpec("ids", "INT32", (-1, -1)),)),
            "inputs[0]: the preprocessing makes ids INT64 [-1, -1], the manifest says ids INT32 [-1, -1]",
        ),
    ],
)
def test_parts_that_contradict_each_other_are_refused(source: Manifest, message: str) -> None:
    assert refusal(as_json(source)) == message


@pytest.mark.parametrize("created", ["", "yesterday", "2026-01-02", "2026-01-02T03:04:05", "2026-13-02T03:04:05Z"])
def test_an_instant_without_its_zone_is_refused(created: str) -> None:
    data = as_json(manifest())
    data["provenance"]["created"] = created
    expected = "provenance.created: expected an instant such as 2026-01-02T03:04:05Z"
    assert refusal(data) == f"{expected}, got {created!r}"


def test_a_spec_that_contradicts_itself_is_refused() -> None:
    data = as_json(manifest())
    data["preprocessing"]["std"] = [0.0]
    assert refusal(data) == "preprocessing: std must be positive, got [0.0]"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestInvalid) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == f"{tmp_path / MANIFEST_FILE}: no such file"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"max_batch_size": ' + b"9" * 5000 + b"}",
        b'{"\\ud800": 1}',
        b'["\\udfff"]',
    ],
    ids=["empty", "cut", "not UTF-8", "deep", "many digits", "half a letter as a key", "half a letter"],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(ManifestInvalid) as caught:
        read_manifest(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / MANIFEST_FILE}: not readable as JSON (")


@pytest.mark.parametrize("content", ["[]", "3", "null", '"manifest"'])
def test_json_that_is_no_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST_FILE).write_text(content)
    with pytest.raises(ManifestInvalid, match=r"manifest\.json: file: expected a table"):
        read_manifest(tmp_path)


def test_an_infinite_tolerance_proves_nothing_and_is_refused(tmp_path: Path) -> None:
    write_manifest(manifest(parity=Parity(float("inf"), 0.0, (1,), 1.0, 1)), tmp_path)
    with pytest.raises(ManifestInvalid, match=r"parity\.tolerance: expected a finite number, got inf"):
        read_manifest(tmp_path)


def test_a_refused_manifest_names_file_and_key(tmp_path: Path) -> None:
    data = copy.deepcopy(as_json(manifest()))
    del data["accuracy"][0]["value"]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(data))
    with pytest.raises(ManifestInvalid) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == f"{tmp_path / MANIFEST_FILE}: missing key 'accuracy[0].value'"


def test_a_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    # FIPS 180-4's digest of the empty message.
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert file_digest(tmp_path / "empty") == f"sha256:{empty}"


def test_labels_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("zero\nümlaut\ntwo words\n", encoding="utf-8")
    assert read_labels(tmp_path / "labels.txt") == ("zero", "ümlaut", "two words")


def test_unreadable_labels_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes(b"\xfcmlaut\n")
    os.mkfifo(tmp_path / "pipe")
    for path in (
        tmp_path / "latin1.txt",
        tmp_path / "pipe.txt",
        tmp_path / "missing.txt",
        tmp_path,
        tmp_path / "nul\0",
    ):
        with pytest.raises(ManifestInvalid, match="labels are not readable"):
            read_labels(path)

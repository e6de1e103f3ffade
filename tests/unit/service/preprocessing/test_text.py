from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors

from service.errors import InvalidInput, ManifestInvalid
from service.preprocessing.text import MAX_BYTES_PER_TOKEN, SentenceEncoder, pad
from tests.unit.service.samples import TEXT, WORDS, text_spec, tokenizer


def encoder() -> SentenceEncoder:
    return SentenceEncoder(TEXT, tokenizer())


def refusal(sentence: bytes | str) -> str:
    with pytest.raises(InvalidInput) as caught:
        encoder().encode(sentence)
    return caught.value.message


def test_a_sentence_is_cleaned_split_and_numbered() -> None:
    ids = encoder().encode("GOOD,film")
    assert ids.dtype == np.int64
    assert ids.tolist() == [2, 4]


@pytest.mark.parametrize("kind", [str.encode, lambda text: memoryview(text.encode()), str])
def test_text_and_its_bytes_are_the_same(kind: type) -> None:
    assert encoder().encode(kind("bad film")).tolist() == [3, 4]


def test_a_word_outside_the_vocabulary_is_unknown() -> None:
    assert encoder().encode("good ζῷον").tolist() == [2, TEXT.unknown_id]


def test_a_sentence_without_a_word_is_refused() -> None:
    for sentence in ("", "   ", ",, ,"):
        assert refusal(sentence) == "sentence has no tokens, expected at least one word"


def test_a_sentence_too_long_is_refused_not_cut() -> None:
    assert len(encoder().encode("good " * 6)) == 6
    assert refusal("good " * 7) == "sentence has 7 tokens, expected at most 6"


def test_a_sentence_far_too_long_is_refused_before_it_is_split() -> None:
    limit = TEXT.max_tokens * MAX_BYTES_PER_TOKEN
    assert encoder().encode("x" * limit).tolist() == [TEXT.unknown_id]
    assert refusal("x" * (limit + 1)) == f"sentence has {limit + 1} characters, expected at most {limit}"


def test_bytes_that_are_not_utf8_are_refused_by_place() -> None:
    assert refusal(b"good \xff film") == "sentence is not UTF-8: byte 5 is 0xff"
    with pytest.raises(InvalidInput, match="byte 0 is 0xc3"):
        encoder().encode(memoryview(b"\xc3"))


@given(st.binary(max_size=40))
def test_any_bytes_become_ids_or_a_refusal(data: bytes) -> None:
    try:
        ids = encoder().encode(data)
    except InvalidInput:
        return
    assert 1 <= len(ids) <= TEXT.max_tokens
    assert ids.min() >= 0
    assert ids.max() < len(WORDS)


@given(st.lists(st.sampled_from(["good", "Bad", "film", "what"]), min_size=1, max_size=6))
def test_each_word_is_numbered_for_itself(words: list[str]) -> None:
    alone = [int(encoder().encode(word)[0]) for word in words]
    assert encoder().encode(" ".join(words)).tolist() == alone


def test_rows_are_padded_on_the_right() -> None:
    padded = pad([np.array([2]), np.array([3, 4, 2])], padding_id=9)
    assert padded.dtype == np.int64
    assert padded.tolist() == [[2, 9, 9], [3, 4, 2]]


def test_ids_in_range_pass() -> None:
    encoder().check_ids(np.array([[0, len(WORDS) - 1]]))
    encoder().check_ids(np.array([[2]]))
    encoder().check_ids(np.array([[2] * TEXT.max_tokens]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[0, len(WORDS)]], "ids run from 0 to 5, expected 0 to 4"),
        ([[-1, 3]], "ids run from -1 to 3, expected 0 to 4"),
        ([[2] * 7], "ids have length 7, expected 1 to 6"),
        ([[]], "ids have length 0, expected 1 to 6"),
    ],
)
def test_ids_that_the_graph_could_not_look_up_are_refused(ids: list[list[int]], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        encoder().check_ids(np.array(ids, np.int64).reshape(1, -1))
    assert caught.value.message == message


def test_the_tokenizer_file_is_read(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    assert SentenceEncoder.from_dir(TEXT, tmp_path).encode("film").tolist() == [4]


def test_a_tokenizer_file_may_neither_cut_nor_pad_nor_add_tokens(tmp_path: Path) -> None:
    cutting = tokenizer()
    cutting.enable_truncation(2)
    cutting.enable_padding(length=5)
    cutting.post_processor = processors.TemplateProcessing(single="film $A", special_tokens=[("film", 4)])
    cutting.save(str(tmp_path / "tokenizer.json"))
    assert SentenceEncoder.from_dir(TEXT, tmp_path).encode("good good film").tolist() == [2, 2, 4]


def test_a_missing_or_damaged_tokenizer_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    panics = json.dumps(
        json.loads(tokenizer().to_str()) | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}
    )
    for content in (None, "", "{}", '{"model": 3}', panics):
        if content is not None:
            path.write_text(content)
        with pytest.raises(ManifestInvalid) as caught:
            SentenceEncoder.from_dir(TEXT, tmp_path)
        assert str(caught.value).startswith(f"{path}: not readable as a tokenizer (")


def test_ctrl_c_while_a_tokenizer_is_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr("service.preprocessing.text.Tokenizer", Mock(from_file=Mock(side_effect=KeyboardInterrupt)))
    with pytest.raises(KeyboardInterrupt):
        SentenceEncoder.from_dir(TEXT, tmp_path)


def test_a_pipe_for_a_tokenizer_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(ManifestInvalid, match="not readable as a tokenizer"):
        SentenceEncoder.from_dir(TEXT, tmp_path)


@pytest.mark.parametrize("changes", [{"padding_id": 5}, {"unknown_id": 5}])
def test_special_ids_outside_the_vocabulary_are_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ManifestInvalid, match="padding_id or unknown_id lies outside its 5 ids"):
        SentenceEncoder.from_dir(text_spec(**changes), tmp_path)

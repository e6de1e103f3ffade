from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer

from export.data.vocabulary import build_tokenizer
from export.errors import RecipeInvalid


def _words(sentence: str) -> list[str]:
    """Clean and split as the file will: every word of this sentence is known."""
    tokenizer = build_tokenizer([sentence], "kim2014", 1)
    words: list[str] = tokenizer.encode(sentence, add_special_tokens=False).tokens
    return words


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("simplistic , silly and tedious .", "simplistic , silly and tedious"),
        ("it's so laddish", "it 's so laddish"),
        ("they've", "they 've"),
        ("doesn't", "does n't"),
        ("we're you'd I'll", "we 're you 'd i 'll"),
        ("fine,really!", "fine , really !"),
        ("(why?)", "( why ? )"),
        ("Rock-'n'-Roll", "rock 'n' roll"),
        ("caf\u00e9 `quoted` 3.5/5", "caf `quoted` 3 5 5"),
        ("two  spaces\tand a tab", "two spaces and a tab"),
        ("IT'S", "it's"),  # the paper's code splits before it lowers: only small letters
    ],
)
def test_cleaning_is_that_of_the_paper(sentence: str, words: str) -> None:
    assert _words(sentence) == words.split()


def test_ids_go_by_count_then_spelling() -> None:
    tokenizer = build_tokenizer(["b a c", "c b", "c"], "kim2014", 1)
    assert tokenizer.get_vocab() == {"[PAD]": 0, "[UNK]": 1, "c": 2, "b": 3, "a": 4}
    assert tokenizer.encode("c what", add_special_tokens=False).ids == [2, 1]
    assert tokenizer.encode("c what").ids == [2, 1]


def test_rare_words_are_unknown() -> None:
    assert set(build_tokenizer(["b a c", "c b", "c"], "kim2014", 2).get_vocab()) == {"[PAD]", "[UNK]", "c", "b"}


def test_a_sentence_cannot_name_the_padding() -> None:
    tokenizer = build_tokenizer(["pad film"], "kim2014", 1)
    assert 0 not in tokenizer.encode("[PAD] [UNK] film").ids


def test_the_file_holds_everything_and_is_the_same_each_time() -> None:
    one, two = (build_tokenizer(["it's a film", "a (fine) film"], "kim2014", 1).to_str() for _ in range(2))
    assert one == two
    assert Tokenizer.from_str(one).encode("It's (FINE)").tokens == ["it", "'s", "(", "fine", ")"]
    assert len(json.loads(one)["normalizer"]["normalizers"]) == 13


def test_an_unknown_cleaning_is_named() -> None:
    known = "kim2014, kim2014-sst, kim2014-trec"
    with pytest.raises(RecipeInvalid, match=rf"preprocessing\.cleaning: expected one of {known}, got 'none'"):
        build_tokenizer(["a"], "none", 1)

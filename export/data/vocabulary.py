"""Builds a tokenizer from training sentences. Its file contains cleaning, splitting and numbering.

The server reads the file with ``tokenizers`` and has no cleaning code of its own, so training and
serving cannot clean differently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase, Normalizer, Replace
from tokenizers.normalizers import Sequence as Steps
from tokenizers.pre_tokenizers import WhitespaceSplit

from export.errors import RecipeInvalid

PADDING, UNKNOWN = "[PAD]", "[UNK]"  # ids 0 and 1

# The steps of clean_str in process_data.py of github yoonkim/CNN_sentence, in the same order. One detail is
# left out: the original puts a backslash before ( ) and ?, because it writes replacements as patterns. That
# only renames three words, which does not affect their random vectors.
_KIM_2014 = (
    (r"[^A-Za-z0-9(),!?'`]", " "),
    (r"'s", " 's"),
    (r"'ve", " 've"),
    (r"n't", " n't"),
    (r"'re", " 're"),
    (r"'d", " 'd"),
    (r"'ll", " 'll"),
    (r",", " , "),
    (r"!", " ! "),
    (r"\(", " ( "),
    (r"\)", " ) "),
    (r"\?", " ? "),
)
# clean_str_sst of the same file, for the treebank, which is already tokenised.
_KIM_2014_SST = _KIM_2014[:1]


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Replacements in order, and whether letters become lowercase."""

    steps: tuple[tuple[str, str], ...]
    lowers: bool


CLEANINGS = {
    "kim2014": Cleaning(_KIM_2014, lowers=True),
    "kim2014-sst": Cleaning(_KIM_2014_SST, lowers=True),
    "kim2014-trec": Cleaning(_KIM_2014, lowers=False),
}


def build_tokenizer(sentences: Sequence[str], cleaning: str, min_count: int) -> Tokenizer:
    """Number the words of training sentences.

    Args:
        sentences: The training part only: words that occur only elsewhere must stay unknown.
        cleaning: A key of :data:`CLEANINGS`.
        min_count: How often a word must occur, at least 1; rarer words become unknown.

    Returns:
        A tokenizer that adds no special tokens to a sentence. Ids are ordered by falling count, then by spelling.

    Raises:
        RecipeInvalid: There is no such cleaning.
    """
    if cleaning not in CLEANINGS:
        raise RecipeInvalid(f"preprocessing.cleaning: expected one of {', '.join(CLEANINGS)}, got {cleaning!r}")
    normalizer, splitter = _normalizer(cleaning), WhitespaceSplit()
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(sentence)))
    words = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
    numbers = {word: number for number, word in enumerate([PADDING, UNKNOWN, *words])}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    return tokenizer


def _normalizer(cleaning: str) -> Normalizer:
    steps: list[Normalizer] = [Replace(Regex(pattern), text) for pattern, text in CLEANINGS[cleaning].steps]
    return Steps([*steps, Lowercase()] if CLEANINGS[cleaning].lowers else steps)

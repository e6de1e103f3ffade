"""From training sentences to a tokenizer file that holds cleaning, splitting and numbering in one.

The server reads the file with ``tokenizers`` and knows nothing of the cleaning; so training and
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

# clean_str of github yoonkim/CNN_sentence, process_data.py, step by step and in its order. Left out:
# his replacements put a backslash before ( ) and ?, because a replacement string is no pattern. That
# renames three words one to one, and a random vector does not care what its word is called.
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
# clean_str_sst of the same file: the treebank is tokenised already.
_KIM_2014_SST = _KIM_2014[:1]


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Replacements in order, and whether letters become small."""

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
        sentences: Of the training part alone: a word that only others use must stay unknown.
        cleaning: A key of :data:`CLEANINGS`.
        min_count: How often a word must occur; rarer ones become unknown. At least 1.

    Returns:
        A tokenizer without special tokens around a sentence; ids by falling count, then by spelling.

    Raises:
        RecipeInvalid: No such cleaning.
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

"""Sentence networks that were trained elsewhere: their tokenizer, the sizes of a TextCNN, and what padding does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel

from export.architectures.textcnn import PADDING_ID
from export.data.inputs import Preprocessing, TokenInputs
from export.errors import ConversionFailed, RecipeInvalid, WeightsInvalid
from export.recipe import TOKENIZER_FILE
from export.zoo import Known
from service.errors import ManifestInvalid
from service.preprocessing import text
from service.spec import TextSpec

_PADDINGS = ("[PAD]", "<pad>", "<PAD>")
_UNKNOWNS = ("[UNK]", "<unk>", "<UNK>")
_MORE_PADDING = (1, 2, 5, 17, 64)  # zeros after a sentence; a server adds as many as the longest in a batch needs


def read_tokenizer(path: Path, max_tokens: int) -> Preprocessing:
    """Read a file of Hugging Face's ``tokenizers``, as a server reads the one of a version.

    The ids of padding and of unknown words are those that the file sets, or else those of their usual names. To a
    tokenizer of bytes (GPT-2's, RoBERTa's) no word is unknown.

    Args:
        path: The file, usually ``tokenizer.json``.
        max_tokens: The longest sentence that will be served.

    Raises:
        RecipeInvalid: It cannot be read, has gaps between its ids, or does not tell padding or unknown words.
    """
    try:
        tokenizer = text.read_tokenizer(path)
    except ManifestInvalid as error:
        raise RecipeInvalid(f"{error}; expected the tokenizer.json of Hugging Face's tokenizers") from None
    words = tokenizer.get_vocab()
    if sorted(words.values()) != list(range(len(words))):
        raise RecipeInvalid(f"{path}: has {len(words)} tokens whose ids are not 0 to {len(words) - 1}, each once")
    paddings = dict.fromkeys(((tokenizer.padding or {}).get("pad_token") or _PADDINGS[0], *_PADDINGS))
    told = json.loads(tokenizer.to_str())

    def id_of(kind: str, names: Iterable[str]) -> int:
        known = [words[name] for name in names if name in words]
        if not known:
            raise RecipeInvalid(f"{path}: has no token for {kind}, expected {' or '.join(names) or 'an unk_id'}")
        return known[0]

    padding = id_of("padding", paddings)
    unknown = None if _reads_bytes(told, words) else id_of("unknown words", _unknowns(told["model"]))
    try:
        return Preprocessing(TextSpec("text", TOKENIZER_FILE, padding, unknown, max_tokens), tokenizer)
    except ValueError as error:
        raise RecipeInvalid(f"{path}: {error}") from None


def _reads_bytes(told: Mapping[str, Any], words: Collection[str]) -> bool:
    """Return whether a tokenizer takes words apart into bytes and has a token for each, so that none is unknown."""
    prepared = json.dumps([told["normalizer"], told["pre_tokenizer"]])  # either may be a sequence
    is_bpe = told["model"]["type"] == "BPE"
    return is_bpe and '"ByteLevel"' in prepared and set(ByteLevel.alphabet()).issubset(words)


def _unknowns(model: Mapping[str, Any]) -> Sequence[str]:
    """Return the tokens that may stand for unknown words, given a tokenizer file's table ``model``.

    BPE without one leaves out what it does not know; the other models fail on it.
    """
    if model["type"] == "Unigram":
        return () if model["unk_id"] is None else (model["vocab"][model["unk_id"]][0],)
    return _UNKNOWNS if model["unk_token"] is None else (model["unk_token"],)


def as_textcnn(
    known: Known, state: Mapping[str, torch.Tensor], preprocessing: Preprocessing
) -> tuple[Known, dict[str, torch.Tensor], list[str]]:
    """Return a TextCNN in the sizes of its weights, the weights with one axis for words, and what was done.

    Args:
        known: The variant.
        state: Tensors by the file's names. Filters may be those of Conv1d (F, D, width) or of Conv2d (F, 1, width, D).
        preprocessing: The tokenizer.

    Raises:
        WeightsInvalid: They are no TextCNN's or those of several, or have another vocabulary than the tokenizer.
        RecipeInvalid: Padding has another id than the network's.
    """
    flat = {
        name: value[:, 0].transpose(1, 2) if value.ndim == 4 and value.shape[1] == 1 else value
        for name, value in state.items()
    }
    filters = [value for value in flat.values() if value.ndim == 3]
    tables = [value for value in flat.values() if value.ndim == 2 and filters and value.shape[1] == filters[0].shape[1]]
    if not tables:
        raise WeightsInvalid(
            f"the weights are no TextCNN's; expected word vectors (V, D), filters (F, D, width) or (F, 1, width, D), "
            f"and a linear layer, got {', '.join(str(tuple(value.shape)) for value in state.values())}"
        )
    words = preprocessing.sizes(0).vocabulary
    counts = [len(table) for table in tables]
    if words not in counts:
        raise WeightsInvalid(f"the weights have vectors for {max(counts)} words, the tokenizer has {words} tokens")
    channels = 2 if known.options["variant"] == "multichannel" else 1
    if counts.count(words) != channels:
        raise WeightsInvalid(
            f"the weights have {counts.count(words)} tables of word vectors, {known.name} has {channels}; "
            "name another variant, or save the weights without averaged copies"
        )
    assert isinstance(preprocessing.spec, TextSpec)
    if preprocessing.spec.padding_id != PADDING_ID:
        raise RecipeInvalid(
            f"{known.name}: padding has the id {preprocessing.spec.padding_id}, expected {PADDING_ID}; "
            "bring the network that pads with it with --from"
        )
    sizes = {
        "widths": [value.shape[2] for value in filters],
        "filters": filters[0].shape[0],
        "dimensions": filters[0].shape[1],
    }
    notes = [
        f"the weights are taken for Kim's TextCNN with {sizes['filters']} filters of each width of {sizes['widths']}: "
        "padding on both sides, ReLU, the maximum over time; bring another network with --from"
    ]
    return dataclasses.replace(known, options={**known.options, **sizes}), flat, notes


def check_padding(
    name: str, answer: Callable[[np.ndarray], np.ndarray], inputs: TokenInputs, spec: TextSpec, rounding: float
) -> None:
    """Refuse a network whose answer to a sentence changes with the padding behind it, which a server adds to batches.

    Args:
        name: Of the network, for messages.
        answer: Returns probabilities (N, K) for ids (N, L).
        inputs: Sentences; each is tried, and the first token of each alone.
        spec: Says what sentences are padded with, and how far at most.
        rounding: Probabilities that differ by as much count as the same.

    Raises:
        ConversionFailed: A probability differs by more.
    """
    for row, more in zip(inputs.rows, np.resize(_MORE_PADDING, len(inputs)), strict=True):
        for ids in (row, row[:1]):
            longer = np.append(ids, np.full(more, spec.padding_id))[: spec.max_tokens]
            difference = float(np.abs(answer(ids[np.newaxis]) - answer(longer[np.newaxis])).max())
            if difference > rounding:
                raise ConversionFailed(
                    f"{name}: a probability for a sentence of {len(ids)} tokens changes by {difference:.2g} if "
                    f"{len(longer) - len(ids)} tokens of padding (id {spec.padding_id}) follow, as in a batch with a "
                    "longer one; its forward must add at least the widest filter's width of that padding on the right, "
                    "and take the maximum over time (docs/export.md)"
                )

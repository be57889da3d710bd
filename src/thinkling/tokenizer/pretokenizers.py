"""How a byte-level BPE cuts text before it merges, for each `tokenizer.ggml.pre` that we are sure of.

A GGUF file names its pre-tokeniser and does not carry it: with the wrong one a tokenizer still encodes, into other
tokens than the model was trained on. So the known ones stand in this table and any other is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from thinkling.core.errors import ModelError

GGUF_CONTROL = 3
GGUF_USER_DEFINED = 4
"""Token types of llama.cpp: control tokens are never written by a user, user-defined ones are merely never cut."""

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Pretokenizer:
    """One way to cut."""

    split: str | None = None
    """A regular expression whose matches are the pieces; None for GPT-2's own, which is built into ByteLevel."""
    single_digits: bool = False
    """Each digit is cut off first."""
    ignore_merges: bool = False
    """A piece that is a token as a whole is taken at once, whatever the merges say."""
    nfc: bool = False
    """Text is brought into Unicode's composed form first."""


KNOWN: Mapping[str, Pretokenizer] = {
    "gpt-2": Pretokenizer(),
    "smollm": Pretokenizer(single_digits=True),
    "llama-bpe": Pretokenizer(split=rf"{CONTRACTIONS}|{WORDS}|\p{{N}}{{1,3}}|{REST}", ignore_merges=True),
    "qwen2": Pretokenizer(split=rf"{CONTRACTIONS}|{WORDS}|\p{{N}}|{REST}", nfc=True),
}


def known_pretokenizer(name: str, where: str) -> Pretokenizer:
    """The entry of the table.

    Raises:
        ModelError: The name is not in the table.
    """
    if name not in KNOWN:
        raise ModelError(
            f"the pre-tokeniser '{name}' is not known here, and a guess would give wrong tokens",
            where=where,
            fix=f"use the Hugging Face folder of this model; known: {', '.join(KNOWN)}",
        )
    return KNOWN[name]


def build_byte_level_bpe(
    tokens: Sequence[str],
    token_types: Sequence[int],
    merges: Sequence[str],
    cut: Pretokenizer,
    *,
    first: str | None = None,
    where: str = "",
) -> Tokenizer:
    """A `tokenizers` tokenizer from the lists of a GGUF file.

    Args:
        tokens: One per id, in the alphabet of byte-level BPE.
        token_types: llama.cpp's type of each token.
        merges: "left right", the most important first.
        cut: How text is cut before merging.
        first: A token that other programs put before every text; None for none.
        where: Where the lists come from, for errors.

    Raises:
        ModelError: Two tokens of one name, or a merge of or into what is no token.
    """
    vocabulary = {token: number for number, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    _check(tokens, vocabulary, pairs, where)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, fuse_unk=False, ignore_merges=cut.ignore_merges))
    tokenizer.pre_tokenizer = _pre_tokenizer(cut)
    tokenizer.decoder = decoders.ByteLevel()
    if cut.nfc:
        tokenizer.normalizer = normalizers.NFC()
    if first is not None:
        tokenizer.post_processor = _put_before(first, vocabulary[first], where)
    marked = list(zip(tokens, token_types, strict=True))
    tokenizer.add_special_tokens([_added(token, special=True) for token, kind in marked if kind == GGUF_CONTROL])
    tokenizer.add_tokens([_added(token, special=False) for token, kind in marked if kind == GGUF_USER_DEFINED])
    return tokenizer


def _check(tokens: Sequence[str], vocabulary: Mapping[str, int], pairs: Sequence[tuple[str, str]], where: str) -> None:
    fix = "fetch the file again, or use the Hugging Face folder of this model"
    if len(vocabulary) != len(tokens):
        raise ModelError("two tokens of the tokenizer have one name", where=where, fix=fix)
    for left, right in pairs:
        if not (left in vocabulary and right in vocabulary and left + right in vocabulary):
            raise ModelError(
                f"the tokenizer merges '{left}' and '{right}', which are not all tokens", where=where, fix=fix
            )


def _put_before(first: str, number: int, where: str) -> processors.TemplateProcessing:
    try:
        return processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A {first} $B", special_tokens=[(first, number)]
        )
    except ValueError as error:  # the library's own little language reads "a b" and "a:1" as more than a name
        raise ModelError(
            f"the first token of every text cannot be '{first}': {error}",
            where=where,
            fix="use the Hugging Face folder of this model",
        ) from error


def _added(token: str, *, special: bool) -> AddedToken:
    return AddedToken(token, normalized=False, special=special)


def _pre_tokenizer(cut: Pretokenizer) -> pre_tokenizers.PreTokenizer:
    if cut.split is not None:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(cut.split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    bytes_and_words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if cut.single_digits:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_and_words])
    return bytes_and_words

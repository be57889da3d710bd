"""What kind of token each one is: a mark of the form, a copied number, a computed number, or a word.

A loss that falls may say that a model has learnt where `####` stands and to repeat what it was asked, and nothing of
arithmetic. Only the computed numbers tell: those that stand neither in the prompt nor earlier in the row. The kinds are
a column of the Batch, found once a row from the tokens' texts, so that the log-probabilities a step has anyway can be
counted apart.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

import torch
from torch import Tensor

from thinkling.data.batch import Batch
from thinkling.tokenizer.tokenizer import Tokenizer

COLUMN = "kinds"
"""(N,) int64 of a Batch: kind + len(KINDS) * part."""
KINDS = ("words", "marks", "copied_numbers", "computed_numbers")
PARTS = ("", "thought", "answer")
"""Of a row with a <think> block that is learnt; other rows have no parts."""
WORDS, MARKS, COPIED, COMPUTED = range(len(KINDS))

NUMBER = re.compile(r"\d+(?:,\d{3}(?!\d))*(?:\.\d+)?")
"""Without its sign: in 5-3 there is none, and -3 repeats a 3 that was given."""
MARK = re.compile(r"#{2,}|=|\n|</?(?:think|answer)>|\\boxed|<<|>>")
THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
TAGS = ("<think>", "</think>")
REMEMBERED_TOKENS = 2**22
"""Kinds that are kept from one epoch to the next: 32 MiB."""


class Kinds:
    """Finds the kinds of rows, each row once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._texts: dict[int, str] = {}
        self._rows: dict[bytes, Tensor] = {}
        self._remembered = 0

    def of(self, batch: Batch) -> Batch:
        """The batch with the column of kinds; one that has it is left as it is."""
        if COLUMN in batch.columns:
            return batch
        tokens, learnt = batch.tokens.cpu(), (batch.loss_weights != 0).cpu()
        segments = itertools.pairwise(batch.starts.tolist())
        found = torch.cat([self._segment(tokens[low:high], learnt[low:high]) for low, high in segments])
        return replace(batch, columns={**batch.columns, COLUMN: found.to(batch.tokens.device)})

    def _segment(self, tokens: Tensor, learnt: Tensor) -> Tensor:
        key = hashlib.blake2b(tokens.numpy().tobytes() + learnt.numpy().tobytes(), digest_size=16).digest()
        if key not in self._rows:
            if self._remembered > REMEMBERED_TOKENS:
                self._rows.clear()
                self._remembered = 0
            self._rows[key] = torch.tensor(kinds_of([self._text(t) for t in tokens.tolist()], learnt.tolist()))
            self._remembered += len(tokens)
        return self._rows[key]

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._read(token)
        return self._texts[token]

    def _read(self, token: int) -> str:
        """The token's text behind other text: some tokenizers drop the space of a token that stands first."""
        if token in self.tokenizer.special_ids:
            name = self.tokenizer.token_text(token)
            return name if name in TAGS else "\n"  # an end of turn is a mark, whatever it is called
        before = self.tokenizer.encode("a")[-1:]
        return self.tokenizer.decode([*before, token])[len(self.tokenizer.decode(before)) :]


def kinds_of(texts: Sequence[str], learnt: Sequence[bool]) -> list[int]:
    """The kind and part of each token of one row, as one number: kind + len(KINDS) * part.

    A token that holds a bit of a number is of the number's kind, else one that holds a bit of a mark is a mark. Numbers
    are equal by value: 1,200 repeats 1200.0. Numbers written as words are words.

    Args:
        texts: Of the tokens in order; together they are the row.
        learnt: Whether the prediction of each counts: a <think> block of which nothing does, such as one that the
            instruction shows, makes no parts.

    Example:
        >>> [KINDS[kind] for kind in kinds_of(["2", "+", "3", "=", "5", "\\n", "5"], [False] * 4 + [True] * 3)]
        ['computed_numbers', 'words', 'computed_numbers', 'marks', 'computed_numbers', 'marks', 'copied_numbers']
    """
    row, ends = "".join(texts), list(itertools.accumulate(map(len, texts)))
    kinds = [WORDS] * len(texts)
    for match in MARK.finditer(row):
        for place in _touched(match, ends):
            kinds[place] = MARKS
    known: set[Decimal] = set()
    for match in NUMBER.finditer(row):
        value = Decimal(match[0].replace(",", ""))
        for place in _touched(match, ends):
            kinds[place] = COPIED if value in known else COMPUTED
        known.add(value)
    return [kind + len(KINDS) * part for kind, part in zip(kinds, _parts(row, ends, learnt), strict=True)]


def _parts(row: str, ends: list[int], learnt: Sequence[bool]) -> list[int]:
    """The place of each token's part in PARTS."""
    thoughts = [list(_touched(match, ends)) for match in THOUGHT.finditer(row)] if TAGS[0] in row else []
    thoughts = [places for places in thoughts if any(learnt[place] for place in places)]
    inside = {place for places in thoughts for place in places}
    return [PARTS.index("thought" if place in inside else "answer" if inside else "") for place in range(len(ends))]


def _touched(match: re.Match[str], ends: list[int]) -> Iterator[int]:
    """The tokens that hold a character of the match; `ends` are the ends of all tokens in the row."""
    low, high = match.span()
    yield from range(bisect_right(ends, low), min(bisect_left(ends, high) + 1, len(ends)))

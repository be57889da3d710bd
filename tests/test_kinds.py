"""Kinds of tokens: a number is computed where nothing before it says it, however the text is cut into tokens."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinkling.data.batch import pack
from thinkling.data.kinds import COLUMN, KINDS, PARTS, Kinds, kinds_of


def named(pieces: list[str], learnt: list[bool] | None = None) -> list[str]:
    found = kinds_of(pieces, learnt or [True] * len(pieces))
    return [f"{PARTS[n // len(KINDS)]} {KINDS[n % len(KINDS)]}".strip() for n in found]


def numbers_of(text: str) -> str:
    """The text's numbers, each followed by c (computed) or o (copied); one token a character."""
    kinds = named(list(text))
    return " ".join(
        match[0] + {"computed_numbers": "c", "copied_numbers": "o"}[kinds[match.start()]]
        for match in re.finditer(r"[\d.,]*\d", text)
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Tom has 48 apples. 48 / 2 = 24\n48 + 24 = 72\n#### 72", "48c 48o 2c 24c 48o 24o 72c 72o"),
        ("1,200 and 1200.0", "1,200c 1200.0o"),
        ("12 and 2 and 1", "12c 2c 1c"),  # a digit of a number is not that number
        ("5-3 = 2, -3", "5c 3c 2c 3o"),
        ("0.5 is not 5", "0.5c 5c"),
    ],
)
def test_a_number_is_copied_where_it_stood_before(text: str, wanted: str):
    assert numbers_of(text) == wanted


def test_marks_are_the_form_and_the_rest_is_words():
    assert named(["so", " x", " =", " 3", "\n", "####", " ", "3", " + "]) == [
        "words", "words", "marks", "computed_numbers", "marks", "marks", "words", "copied_numbers", "words",
    ]  # fmt: skip


def test_a_thought_that_is_learnt_parts_the_row_and_one_that_is_only_shown_does_not():
    pieces = ["write <think>", "x", "</think>", "<think>", "hm", "</think>", "so"]
    parts = [kind.split(" ")[0] for kind in named(pieces, [False] * 3 + [True] * 4)]
    assert parts == ["answer", "answer", "answer", "thought", "thought", "thought", "answer"]
    assert not any(" " in kind for kind in named(pieces[:3], [False] * 3))


@given(st.text("12,. =\na#", max_size=30), st.data())
def test_the_kind_of_a_number_does_not_depend_on_how_the_text_is_cut(text: str, data: st.DataObject):
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(text) - 1)))))
    bounds = [0, *(cut for cut in cuts if cut < len(text)), len(text)]
    pieces = [text[low:high] for low, high in itertools.pairwise(bounds)]
    by_character, place = named(list(text)), 0
    for piece, kind in zip(pieces, named(pieces), strict=True):
        inside = by_character[place : place + len(piece)]
        place += len(piece)
        numbers = [k for k in inside if k.endswith("numbers")]
        wanted = numbers or [k for k in inside if k == "marks"] or ["words"]
        assert kind in wanted


def test_the_column_is_of_each_row_by_itself_and_ends_of_turn_are_marks(tokenizer):
    row = [*tokenizer.encode("7 = 7"), tokenizer.token_id("<|im_end|>")]
    other = tokenizer.encode("7 7")
    batch = Kinds(tokenizer).of(pack([row, other], [[1.0] * len(row), [1.0] * len(other)]))
    names = [KINDS[kind] for kind in batch.columns[COLUMN].tolist()]
    assert names[:6] == ["computed_numbers", "words", "marks", "words", "copied_numbers", "marks"]
    assert names[6:] == ["computed_numbers", "words", "copied_numbers"]


def test_a_row_is_read_once_and_a_column_that_is_there_is_kept(tokenizer, monkeypatch):
    from thinkling.data import kinds

    read = []
    monkeypatch.setattr(kinds, "kinds_of", lambda texts, learnt: read.append(1) or [0] * len(texts))
    finder = kinds.Kinds(tokenizer)
    batch = pack([[49, 50], [51]], [[0.0, 1.0], [0.0]])
    once = finder.of(batch)
    assert torch.equal(finder.of(batch).columns[COLUMN], once.columns[COLUMN])
    assert finder.of(once) is once
    assert len(read) == 2


def test_a_token_is_read_as_it_stands_in_a_text(tmp_path):
    """A tokenizer that writes spaces as ▁ and drops the first one must not join two numbers."""
    from tokenizers import Tokenizer as Rust
    from tokenizers import decoders, models, pre_tokenizers

    from thinkling.tokenizer.tokenizer import Tokenizer

    vocabulary = {"▁": 0, "4": 1, "8": 2, "a": 3, "▁4": 4}
    rust = Rust(models.BPE(vocab=vocabulary, merges=[("▁", "4")]))
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    rust.save(str(tmp_path / "tokenizer.json"))
    tokens = [1, 4]  # "4" and " 4", not 44
    batch = Kinds(Tokenizer.load(tmp_path)).of(pack([tokens], [[1.0, 1.0]]))
    assert [KINDS[kind] for kind in batch.columns[COLUMN].tolist()] == ["computed_numbers", "copied_numbers"]

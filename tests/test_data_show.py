"""What `data show` prints is what is trained on: every token once, the learnt ones marked, escape codes disarmed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from toy_chat import CHATML, QWEN3, byte_level

from thinkling.apps import data_show
from thinkling.core.errors import ConfigError, DataError
from thinkling.data.prepare import TokenRow, encode_rows
from thinkling.data.types import Conversation, Message


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    byte_level(CHATML).save(folder)
    (folder / "config.json").write_text("{}")
    return str(folder)


@pytest.fixture
def shown(tmp_path: Path, model: str):
    """Prints rows and gives what a person reads, without colour unless asked for."""

    def show(*rows: dict[str, Any], color: bool = False, **options: Any) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        system = {"force_terminal": True, "color_system": "truecolor"} if color else {"color_system": None}
        console = Console(record=True, width=200, file=io.StringIO(), highlight=False, soft_wrap=True, **system)
        data_show.show(str(path), options.pop("model", model), console=console, **options)
        return console.export_text(styles=color)

    return show


def row_of(template: str, *contents: str) -> TokenRow:
    roles = ("user", "assistant") * len(contents)
    talk = Conversation(tuple(Message(r, c) for r, c in zip(roles, contents, strict=False)))
    return encode_rows(talk, byte_level(template)).rows[0]


texts = st.text(min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=80, deadline=None)
@given(texts, texts)
def test_the_pieces_hold_every_token_once_and_read_as_the_whole(question: str, answer: str):
    row = row_of(CHATML, question, answer)
    pieces = data_show.cells(byte_level(CHATML), row)
    assert [token for cell in pieces for token in cell.tokens] == row.tokens
    assert [cell.weight for cell in pieces for _ in cell.tokens] == row.weights
    assert "".join(cell.text for cell in pieces) == byte_level(CHATML).decode(row.tokens, skip_special=False)


def test_a_character_of_several_tokens_is_shown_as_one_piece():
    row = row_of(CHATML, "hello", "龘")  # three bytes, in no merge of the toy tokenizer
    pieces = data_show.cells(byte_level(CHATML), row)
    assert [(cell.text, len(cell.tokens)) for cell in pieces if cell.weight] == [("龘", 3), ("<|im_end|>", 1)]


def test_learnt_tokens_stand_in_brackets_with_their_end_of_turn(shown):
    text = shown({"prompt": "ab", "completion": "77"})
    assert "<|im_start|>user↵\nab<|im_end|>↵\n<|im_start|>assistant↵\n⟦7¦7¦<|im_end|>⟧" in text


def test_colour_marks_the_same_tokens(shown):
    text = shown({"prompt": "ab", "completion": "77"}, color=True)
    row = row_of(CHATML, "ab", "77")
    pieces = data_show.cells(byte_level(CHATML), row)
    styled = data_show.coloured(pieces, len(pieces))
    marked = "".join(styled.plain[s.start : s.end] for s in styled.spans if "on " in str(s.style))
    assert marked == "77<|im_end|>"
    assert "\x1b[" in text
    assert "⟦" not in text


def test_what_lies_beyond_the_cutoff_is_marked_and_training_says_it_would_refuse(shown):
    row = {"prompt": "ab", "completion": "7" * 30}
    n_tokens = len(row_of(CHATML, "ab", "7" * 30).tokens)
    text = shown({"prompt": "ab", "completion": "7"}, row, cutoff_len=n_tokens - 5)
    assert "5 tokens lie beyond cutoff_len" in text
    # the end of turn and four digits are cut off
    assert "¦✂7¦7¦7¦7¦<|im_end|>⟧" in text
    assert "1 too long" in text
    assert "training would refuse: 50.0%" in text


def test_a_row_within_the_cutoff_has_no_mark(shown):
    n_tokens = len(row_of(CHATML, "ab", "7").tokens)
    assert "✂" not in shown({"prompt": "ab", "completion": "7"}, cutoff_len=n_tokens)


def test_the_account_is_of_the_whole_file_and_not_of_the_rows_shown(shown):
    rows = [{"prompt": "ab", "completion": "7"}] * 5
    text = shown(*rows, rows=2)
    assert text.count("of them learnt\n") == 2
    assert "5 of 5 rows" in text


def test_the_counts_of_each_weight_are_those_of_the_rows_shown(shown):
    row = row_of(CHATML, "ab", "77")
    text = shown({"prompt": "ab", "completion": "77"})
    assert f"weight 1: 3 tokens  weight 0: {len(row.tokens) - 3} tokens" in text


def test_the_masks_show_that_no_token_sees_a_later_one_or_another_row(shown):
    rows = [{"prompt": "ab", "completion": "7"}, {"prompt": "ab", "completion": "8"}]
    text = shown(*rows, masks=True)
    grid = [line[13:] for line in text.splitlines() if "■" in line]
    width = 2 * data_show.MASK_TOKENS
    for place, line in enumerate(grid):
        first = place // data_show.MASK_TOKENS * data_show.MASK_TOKENS  # of its own row
        assert [c == "■" for c in line[:width].ljust(width)] == [first <= other <= place for other in range(width)]
    assert [line.split()[-1] for line in grid[-2:]] == ["1", "1"]


def test_a_row_left_out_says_why(shown):
    text = shown({"prompt": "ab", "completion": "7"}, {"prompt": "ab", "completion": " "})
    assert "line 2: left out: an answer to learn is empty" in text


def test_an_answer_of_a_split_conversation_says_which_it_is(shown, tmp_path: Path):
    folder = tmp_path / "qwen"
    byte_level(QWEN3).save(folder)
    (folder / "config.json").write_text("{}")
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    text = shown({"messages": [{"role": r, "content": c} for r, c in turns]}, model=str(folder))
    assert "answer 2 of 2" in text


def test_escape_codes_in_the_data_do_not_reach_the_terminal(shown):
    text = shown({"prompt": "ab", "completion": "x\x1b[31mred\x07\x7f\r"})
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "␛" in text


def test_a_file_that_would_teach_nothing_is_shown_and_then_refused(shown):
    with pytest.raises(DataError, match="masked"):
        shown({"messages": [{"role": "user", "content": "a"}]})


@pytest.mark.parametrize(
    ("what", "words"), [("task:sums?levle=2", "did you mean 'level'"), ("task:sums?level=two", "whole number")]
)
def test_a_mistyped_task_is_told_the_mend(what: str, words: str, model: str):
    with pytest.raises(ConfigError, match=words):
        data_show.show(what, model)


def test_the_problems_of_a_task_are_shown_with_their_worked_solution(model: str):
    console = Console(record=True, width=200, file=io.StringIO(), color_system=None, soft_wrap=True)
    data_show.show("task:sums?level=1", model, rows=2, console=console)
    text = console.export_text()
    assert text.count("¦<|im_end|>⟧") == 2
    assert "2 of 2 rows" in text


def test_zero_rows_are_refused(shown):
    with pytest.raises(ConfigError, match="cannot show 0 rows"):
        shown({"prompt": "ab", "completion": "7"}, rows=0)


def test_a_row_far_too_long_is_named_and_not_shown(shown):
    text = shown({"prompt": "ab", "completion": "77"}, {"prompt": "a", "completion": "x" * 10**6}, cutoff_len=50)
    assert "line 2: at least" in text
    assert "xxxxx" not in text
    assert "the longest row had at least" in text


@pytest.mark.parametrize("query", ["level=", "level=1&level=2"])
def test_an_option_without_a_value_or_given_twice_is_refused(query: str):
    with pytest.raises(ConfigError):
        data_show.gathered(f"task:sums?{query}", None, 1)

"""From conversations to rows: what is kept, what is lost and counted, and what is refused before the first step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_chat import CHATML, QWEN3, R1, byte_level

from thinkling.core.errors import ConfigError, DataError
from thinkling.data.prepare import prepare
from thinkling.data.types import Conversation, Message
from thinkling.tokenizer.chat import encode_conversation

TOKENIZER = byte_level(CHATML)


def asked(answer: str, source: str = "rows.jsonl, line 1", question: str = "What is 15 - 8?") -> Conversation:
    return Conversation((Message("user", question), Message("assistant", answer)), source)


def length(conversation: Conversation) -> int:
    """Tokens of a one-answer row: up to its end of turn, without the line break after it."""
    return len(encode_conversation(TOKENIZER, conversation)[0]) - 1


SHORT, LONG = asked("7"), asked("x" * 50)


@settings(max_examples=60, deadline=None)
@given(
    answers=st.lists(st.text(max_size=30), min_size=1, max_size=8),
    cutoff_len=st.integers(2, 120),
    too_long=st.sampled_from(["drop", "cut"]),
)
def test_every_row_is_kept_or_counted_and_no_row_is_over_the_cutoff(answers: list[str], cutoff_len: int, too_long):
    talks = [asked(answer, f"row {i}") for i, answer in enumerate(answers)]
    try:
        prepared = prepare(talks, TOKENIZER, cutoff_len=cutoff_len, too_long=too_long, max_lost_answers=1.0)
    except DataError as error:
        assert "nothing would be trained on" in error.what  # noqa: PT017  (either outcome is allowed, under its own law)
        return
    report, rows = prepared.report, prepared.rows
    assert report.rows == len(talks) == report.kept + report.dropped + report.blank + report.nothing_learnt
    assert report.kept == len(rows)
    assert report.blank == sum(not answer.strip() for answer in answers)
    assert report.answers_cut == sum(length(t) > cutoff_len for t in talks if t.messages[1].content.strip())
    assert report.tokens == sum(len(row.tokens) for row in rows) == sum(len(row.weights) for row in rows)
    assert report.supervised_tokens == sum(row.n_supervised for row in rows)
    assert all(len(row.tokens) <= cutoff_len and row.n_supervised > 0 for row in rows)
    assert [row.source for row in rows] == sorted((row.source for row in rows), key=lambda s: int(s.split()[1]))


def test_a_row_ends_with_its_last_learnt_token():
    (row,) = prepare([asked("7")], TOKENIZER, cutoff_len=100).rows
    assert row.tokens[-1] == TOKENIZER.eos_id
    assert row.weights[-1] == 1.0
    assert TOKENIZER.decode(row.tokens[-row.n_supervised :], skip_special=False) == "7<|im_end|>"


def test_what_follows_the_last_learnt_answer_is_left_off():
    more = Conversation((*asked("7").messages, Message("user", "thanks")), "row 1")
    assert (
        prepare([more], TOKENIZER, cutoff_len=100).rows[0].tokens
        == prepare([asked("7")], TOKENIZER, cutoff_len=100).rows[0].tokens
    )


def test_a_row_too_long_is_dropped_by_default_and_counted():
    report = prepare([SHORT, LONG], TOKENIZER, cutoff_len=length(SHORT), max_lost_answers=0.5).report
    assert (report.kept, report.dropped, report.cut, report.answers_cut) == (1, 1, 0, 1)
    assert report.longest == length(LONG)
    assert any("1 too long" in line and "left out" in line for line in report.lines())


def test_a_row_that_is_cut_keeps_its_beginning_and_loses_its_end_of_turn():
    cutoff = length(LONG) - 3
    prepared = prepare([SHORT, LONG], TOKENIZER, cutoff_len=cutoff, too_long="cut", max_lost_answers=0.5)
    whole, _ = encode_conversation(TOKENIZER, LONG)
    assert prepared.rows[1].tokens == whole[:cutoff]
    assert TOKENIZER.eos_id != prepared.rows[1].tokens[-1]
    assert (prepared.report.kept, prepared.report.cut, prepared.report.answers_cut) == (2, 1, 1)


def test_a_row_cut_before_its_answer_is_dropped():
    long_question = asked("7", question="why? " * 50)
    prepared = prepare(
        [SHORT, long_question], TOKENIZER, cutoff_len=length(SHORT), too_long="cut", max_lost_answers=0.5
    )
    assert (prepared.report.kept, prepared.report.dropped, prepared.report.cut) == (1, 1, 0)


def test_the_rule_error_names_the_first_row_too_long():
    with pytest.raises(DataError, match="cutoff_len is") as caught:
        prepare([SHORT, asked("x" * 50, "rows.jsonl, line 2")], TOKENIZER, cutoff_len=length(SHORT), too_long="error")
    assert caught.value.where == "rows.jsonl, line 2"
    assert f"raise cutoff_len to {length(LONG)}" in caught.value.fix


def test_more_lost_answers_than_allowed_refuse_the_run_and_the_mend_is_enough():
    talks = [SHORT] * 90 + [asked("x" * n) for n in range(21, 31)]
    with pytest.raises(DataError, match=r"10 of 100 rows \(10\.0%\)") as caught:
        prepare(talks, TOKENIZER, cutoff_len=length(SHORT))
    enough = int(caught.value.fix.split("raise cutoff_len to ")[1].split()[0])
    # two in a hundred may be lost, so the third longest must fit
    assert enough == length(asked("x" * 28))
    assert prepare(talks, TOKENIZER, cutoff_len=enough).report.answers_cut == 2
    with pytest.raises(DataError, match="lose the end"):
        prepare(talks, TOKENIZER, cutoff_len=enough - 1)


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no rows"):
        prepare([], TOKENIZER, cutoff_len=100)


def test_rows_without_anything_to_learn_are_refused_and_counted():
    silent = Conversation((Message("user", "hello"),), "row 1")
    masked = Conversation(SHORT.messages, "row 2", learnt=(False, False))
    with pytest.raises(DataError, match="all 3 rows are masked") as caught:
        prepare([silent, masked, asked(" \n")], TOKENIZER, cutoff_len=100)
    assert "2 have no message to learn, 1 an empty answer" in caught.value.what


def test_a_cutoff_that_no_answer_fits_into_is_refused_even_when_losses_are_allowed():
    with pytest.raises(DataError, match="no answer fits"):
        prepare([LONG], TOKENIZER, cutoff_len=5, max_lost_answers=1.0)


def test_an_empty_answer_is_left_out_and_counted():
    report = prepare([SHORT, asked(""), asked("  ")], TOKENIZER, cutoff_len=100).report
    assert (report.kept, report.blank) == (1, 2)
    assert "2 with an empty answer: left out" in report.lines()


def test_a_conversation_that_the_template_rewrites_becomes_one_row_an_answer():
    thinking = [
        Message("user", "a"),
        Message("assistant", "b", "why"),
        Message("user", "c"),
        Message("assistant", "d", "how"),
    ]
    prepared = prepare([Conversation(tuple(thinking), "row 1")], byte_level(QWEN3), cutoff_len=200)
    assert [row.source for row in prepared.rows] == ["row 1", "row 1"]
    assert (prepared.report.rows, prepared.report.split) == (2, 1)


def test_an_error_of_the_template_names_the_row():
    with pytest.raises(DataError) as caught:
        prepare([asked("7", "rows.jsonl, line 8")], byte_level(R1), cutoff_len=200)
    assert "rows.jsonl, line 8" in caught.value.where


@pytest.mark.parametrize(
    "wrong", [{"cutoff_len": 1}, {"cutoff_len": 9, "too_long": "trim"}, {"cutoff_len": 9, "max_lost_answers": 2.0}]
)
def test_settings_that_cannot_be_right_are_refused(wrong):
    with pytest.raises(ConfigError):
        prepare([SHORT], TOKENIZER, **wrong)


# rows that need not be tokenised ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_no_text_has_fewer_tokens_than_its_characters_allow(text: str):
    assert TOKENIZER.longest_token is not None
    characters = len("".join(text.split()))
    assert len(TOKENIZER.encode(text)) >= characters / TOKENIZER.longest_token


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({}, 13),  # "<|endoftext|>"
        ({"normalizer": {"type": "NFC"}}, 52),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "x"}, "content": ""}}, None),
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"String": "x"}, "behavior": "Removed", "invert": False}},
            None,
        ),
    ],
)
def test_a_tokenizer_that_may_drop_characters_has_no_limit(tokenizer_dir, tmp_path, change, limit):
    import json
    import shutil

    from thinkling.tokenizer.tokenizer import Tokenizer

    shutil.copytree(tokenizer_dir, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert Tokenizer.load(tmp_path).longest_token == limit


HUGE = asked("abc " * 2_000_000, "rows.jsonl, line 2")


def test_a_row_that_is_surely_too_long_is_counted_without_being_tokenised(monkeypatch: pytest.MonkeyPatch):
    encode = TOKENIZER.encode
    monkeypatch.setattr(TOKENIZER, "encode", lambda text, **how: encode(text, **how) if len(text) < 1000 else 1 / 0)
    report = prepare([SHORT, HUGE], TOKENIZER, cutoff_len=100, max_lost_answers=0.5).report
    assert (report.rows, report.kept, report.dropped, report.unread, report.answers_cut) == (2, 1, 1, 1, 1)
    assert TOKENIZER.longest_token is not None
    assert (
        0 <= report.longest - 6_000_000 // TOKENIZER.longest_token < 20
    )  # three letters of each four; what the template adds
    assert "at least" in report.lines()[0]


def test_what_is_not_tokenised_is_what_tokenising_would_have_dropped(monkeypatch: pytest.MonkeyPatch):
    talks = [asked("x" * n, f"row {n}") for n in range(1, 4000, 199)]
    quick = prepare(talks, TOKENIZER, cutoff_len=60, max_lost_answers=1.0)
    monkeypatch.setattr(TOKENIZER, "longest_token", None)
    whole = prepare(talks, TOKENIZER, cutoff_len=60, max_lost_answers=1.0)
    assert quick.report.unread > 10 > whole.report.unread == 0
    assert list(quick.rows) == list(whole.rows)
    assert (quick.report.rows, quick.report.dropped) == (whole.report.rows, whole.report.dropped)


def test_a_row_to_be_cut_is_tokenised_however_long():
    long = asked("x" * 5000)
    report = prepare([long], TOKENIZER, cutoff_len=100, too_long="cut", max_lost_answers=1.0).report
    assert (report.cut, report.unread, report.longest) == (1, 0, length(long))


def test_a_row_that_is_surely_too_long_is_named_with_the_mend():
    with pytest.raises(DataError, match="lose the end") as caught:
        prepare([SHORT, HUGE], TOKENIZER, cutoff_len=100)
    assert "take out rows.jsonl, line 2 (at least" in caught.value.fix
    with pytest.raises(DataError, match="a row has at least") as caught:
        prepare([SHORT, HUGE], TOKENIZER, cutoff_len=100, too_long="error")
    assert caught.value.where == "rows.jsonl, line 2"


def test_tokenising_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch):
    from thinkling.core.progress import Silent
    from thinkling.data import prepare as module

    class Heard(Silent):
        told: list[float] = []  # noqa: RUF012

        def advance(self, done: float, **facts: float) -> None:
            self.told.append(done)

    monkeypatch.setattr(module, "TELL_EVERY_S", 0.0)
    monkeypatch.setattr(module, "CHUNK_ROWS", 2)
    prepare([SHORT] * 5, TOKENIZER, cutoff_len=100, progress=Heard())
    assert Heard.told == [2, 4, 5, 5]

"""A conversation in the terminal: it remembers, forgets on demand, and survives what goes wrong in one answer."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from thinkling.apps.chat import Chat, hold
from thinkling.core.errors import ConfigError
from thinkling.data.types import Message


class _Parrot:
    """Answers with the last message, word by word, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Message, ...]] = []
        self.seeds: list[int] = []
        self.fault: BaseException | None = None

    def __call__(self, messages: tuple[Message, ...], seed: int) -> Iterator[str]:
        self.asked.append(messages)
        self.seeds.append(seed)
        for number, word in enumerate(messages[-1].content.split()):
            if self.fault is not None and number == 1:
                raise self.fault
            yield word + " "


class _Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def parrot() -> _Parrot:
    return _Parrot()


def _held(parrot: _Parrot, text: str, **options: object) -> tuple[Chat, str]:
    out = io.StringIO()
    chat = Chat(parrot, out, **options)  # type: ignore[arg-type]
    hold(chat, io.StringIO(text))
    return chat, out.getvalue()


def test_each_turn_is_asked_with_all_that_was_said(parrot: _Parrot):
    _, shown = _held(parrot, "one two\nthree\n", system="Be brief.")
    assert shown == "one two \nthree \n"
    assert [(m.role, m.content) for m in parrot.asked[1]] == [
        ("system", "Be brief."),
        ("user", "one two"),
        ("assistant", "one two "),
        ("user", "three"),
    ]


def test_reset_forgets_all_but_the_system_message(parrot: _Parrot):
    _held(parrot, "one\n/reset\ntwo\n", system="S")
    assert [m.content for m in parrot.asked[1]] == ["S", "two"]


def test_exit_and_the_end_of_input_leave_and_empty_lines_are_passed_over(parrot: _Parrot):
    _held(parrot, "\n   \none\n/exit\ntwo\n")
    assert len(parrot.asked) == 1


def test_a_mistyped_command_is_named_and_not_sent_to_the_model(parrot: _Parrot):
    _, shown = _held(parrot, "/rest\n")
    assert "'/reset'" in shown
    assert parrot.asked == []
    _held(parrot, "/ 2 is half\n")
    assert len(parrot.asked) == 1  # a slash within a sentence is no command


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(parrot: _Parrot):
    parrot.fault = KeyboardInterrupt()
    chat, shown = _held(parrot, "one two\n")
    assert "(stopped)" in shown
    assert chat.messages[-1] == Message("assistant", "one ")


def test_an_error_in_an_answer_is_shown_to_a_person_and_the_conversation_goes_on(
    parrot: _Parrot, monkeypatch: pytest.MonkeyPatch
):
    parrot.fault = ConfigError("the prompt fills the context", fix="ask less")
    typed = iter(["one two", "three", "/exit"])
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    out = io.StringIO()
    chat = Chat(parrot, out)
    hold(chat, _Keyboard())
    shown = out.getvalue()
    assert "the prompt fills the context" in shown
    assert "not kept" in shown
    assert [m.content for m in chat.messages] == ["three", "three "]


def test_the_same_seed_and_words_give_the_same_random_streams_and_turns_differ():
    first, second, other = _Parrot(), _Parrot(), _Parrot()
    _held(first, "a\nb\n", seed=1)
    _held(second, "a\nb\n", seed=1)
    _held(other, "a\nb\n", seed=2)
    assert first.seeds == second.seeds
    assert len({*first.seeds, *other.seeds}) == 4

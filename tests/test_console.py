"""What a person sees of work under way: a bar that moves, or a line every ten seconds, and never a false time."""

from __future__ import annotations

import io

import pytest

from thinkling.apps.console import BAR_CELLS, Terminal, duration, fitted, seconds_left, shown_facts, two_columns


class _Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


def _plain(clock: _Clock) -> tuple[Terminal, io.StringIO]:
    out = io.StringIO()
    return Terminal(out, live=False, clock=clock), out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (42.4, "0:42"), (372, "6:12"), (3723, "1:02:03"), (-3, "0:00"), (59.7, "1:00")]
)
def test_a_duration_reads_like_a_clock(seconds: float, text: str):
    assert duration(seconds) == text


def test_time_left_is_at_the_speed_since_the_first_advance():
    assert seconds_left(30, 100, now=40, started=0, first=(10, 0)) == 70  # 30 units in 30 s
    assert seconds_left(25, 100, now=50, started=0, first=(50, 25)) == 150  # one advance: since the start
    # A resumed run begins at 80: five more in five seconds say 15 s left, not the 5 s that 85 of 100 in 25 s would.
    assert seconds_left(85, 100, now=25, started=0, first=(20, 80)) == 15


@pytest.mark.parametrize(("done", "total"), [(0, 100), (5, 0)])
def test_time_left_is_unknown_before_anything_is_done_or_without_a_total(done: float, total: float):
    assert seconds_left(done, total, now=10, started=0, first=None) is None


def test_facts_come_in_one_order_and_under_both_spellings():
    assert shown_facts({"mfu": 0.41, "tokens_per_s": 1234.5, "gradient/norm": 3.0, "loss/train": 0.5}) == [
        "1,234 tokens/s",
        "MFU 41%",
        "loss 0.500",
    ]
    assert shown_facts({"memory_gib": 1.25}) == shown_facts({"memory/gib": 1.25}) == ["1.2 GiB"]


def test_a_log_gets_a_line_every_ten_seconds_with_speed_memory_and_time_left(clock: _Clock):
    terminal, out = _plain(clock)
    terminal.start("train", 100, "steps")
    for step in range(1, 26):
        clock.now += 1
        terminal.advance(step, **{"tokens/per_s": 500.0, "mfu": 0.3})
    lines = out.getvalue().splitlines()
    assert len(lines) == 2  # after 10 s and 20 s
    # 90 steps are left, at one a second
    assert lines[0].startswith("train  10/100 steps  1:30 left  500 tokens/s  MFU 30%")
    assert lines[0].endswith("GiB")


def test_a_fact_of_an_earlier_step_says_of_which(clock: _Clock):
    terminal, out = _plain(clock)
    terminal.start("train", 100, "steps")
    clock.now += 11
    terminal.advance(40, **{"loss/train": 0.2, "accuracy/validation": 0.29})
    clock.now += 11
    terminal.advance(41, **{"loss/train": 0.19})
    then, now = out.getvalue().splitlines()
    assert then.endswith("loss 0.200  29% right")
    assert now.endswith("loss 0.190  29% right at 40 steps")


def test_a_share_of_right_answers_has_its_interval_and_its_n():
    facts = {"accuracy/validation": 4 / 14, "accuracy/validation_low": 0.117, "accuracy/validation_high": 0.546}
    assert shown_facts({**facts, "accuracy/validation_n": 14}) == ["29% right [12–55%, n 14]"]


def test_a_phase_leaves_one_line_when_it_took_long_and_none_when_it_did_not(clock: _Clock):
    terminal, out = _plain(clock)
    for seconds in (1.9, 62):
        terminal.start("load", 1, "model")
        terminal.advance(1)
        clock.now += seconds
        terminal.finish(**{"memory/gib": 0.5})
    assert out.getvalue() == "load  1 model in 1:02  0.5 GiB\n"


def test_phases_nest(clock: _Clock):
    terminal, out = _plain(clock)
    terminal.start("train", 10, "steps")
    terminal.advance(1)
    terminal.start("generate", 4, "completions")
    terminal.advance(4)
    clock.now += 5
    terminal.finish()
    terminal.advance(2)
    terminal.finish()
    assert [line.split()[0] for line in out.getvalue().splitlines()] == ["generate", "train"]


def test_a_person_sees_a_bar_that_goes_away_and_leaves_the_notes(clock: _Clock):
    out = io.StringIO()
    with Terminal(out, live=True, clock=clock) as terminal:
        terminal.start("train", 10, "steps")
        terminal.advance(5, mfu=0.3)
        terminal._running_bars().refresh()  # otherwise four times a second
        terminal.note("checkpoint step-5")
        clock.now += 1
        terminal.finish()
    shown = out.getvalue()
    assert "━" in shown
    assert "5/10 steps" in shown
    assert "checkpoint step-5" in shown


def _begin_and_stop(terminal: Terminal) -> None:
    with terminal:
        terminal.start("train", 10, "steps")
        raise KeyboardInterrupt


def test_a_narrow_line_ends_after_a_whole_fact():
    assert fitted(["5/10 steps", "0:42 left", "361 tokens/s"], 21) == "5/10 steps  0:42 left"
    assert fitted(["5/10 步", "剩余 0:42"], 18) == "5/10 步  剩余 0:42"  # 7 + 2 + 9 cells
    assert fitted(["5/10 steps"], 3) == "5/10 steps"


def test_eighty_columns_hold_speed_mfu_memory_and_time_left():
    parts = ["123/300 steps", "1:02:03 left", *shown_facts({"tokens/per_s": 12345.0, "mfu": 0.3, "memory/gib": 3.1})]
    assert len("  ".join(parts)) <= 80 - len("train") - BAR_CELLS - 3


def test_an_error_in_the_middle_gives_the_terminal_back(clock: _Clock):
    out = io.StringIO()
    terminal = Terminal(out, live=True, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        _begin_and_stop(terminal)
    assert "\x1b[?25l" in out.getvalue()  # the cursor was hidden, and
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")  # it is shown again


def test_brackets_in_a_note_are_printed_as_they_are(clock: _Clock):
    terminal, out = _plain(clock)
    terminal.note("[1/3] sft [bold] [/x]")
    assert out.getvalue() == "[1/3] sft [bold] [/x]\n"


def test_names_of_settings_are_not_translated_because_they_are_typed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THINKLING_LANG", "zh")
    assert two_columns({"model": "smollm2-135m"}) == ["  model  smollm2-135m"]


def test_columns_line_up_below_chinese_keys():
    assert two_columns({"学习率": "1", "ab": "2"}) == ["  学习率  1", "  ab      2"]  # a Chinese character is two cells


def test_progress_speaks_the_users_language(clock: _Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THINKLING_LANG", "zh")
    terminal, out = _plain(clock)
    terminal.start("train", 10, "steps")
    clock.now += 20
    terminal.advance(5)
    assert out.getvalue().startswith("训练  5/10 步")
    assert "剩余 0:20" in out.getvalue()

"""Reading rows: what each format makes of a row, and what a file that cannot be read is told."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from thinkling.core.errors import ConfigError, DataError
from thinkling.data import json_list
from thinkling.data.rows import read_rows, stream_conversations
from thinkling.data.types import Conversation
from thinkling.formats import gsm8k


def written(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_conversations(*where: Any, **how: Any) -> list[Conversation]:
    return list(stream_conversations(*where, **how))


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


# what each format makes of a row ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"instruction": "Add.", "input": "1, 2", "output": "3"}, [("user", "Add.\n1, 2"), ("assistant", "3")]),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, [("user", "Hi"), ("assistant", "Hello")]),
        (
            {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]},
            [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
        ),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            [("user", "a"), ("assistant", "b")],
        ),
        (
            {"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            [("user", "a"), ("assistant", "b")],
        ),
        ({"prompt": "a", "response": "b"}, [("user", "a"), ("assistant", "b")]),
        ({"prompt": "a", "completion": "b", "system": None}, [("user", "a"), ("assistant", "b")]),
        (
            {"id": 7, "timestamp": "2025", "question": "a", "answer": "<think>b</think>c"},
            [("user", "a"), ("assistant", "<think>b</think>c")],
        ),
    ],
)
def test_a_row_is_read_as_these_messages(tmp_path: Path, row: dict[str, Any], messages: list[tuple[str, str]]):
    (conversation,) = read_conversations(written(tmp_path, row))
    assert said(conversation) == messages


def test_a_conversation_knows_its_file_and_line(tmp_path: Path):
    path = written(tmp_path, {"prompt": "a", "completion": "b"})
    path.write_text("\n\n" + path.read_text())
    assert read_conversations(path)[0].source == f"{path}, line 3"


def test_a_message_of_weight_zero_is_not_learnt(tmp_path: Path):
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    row["messages"][1]["weight"] = 0
    (conversation,) = read_conversations(written(tmp_path, row))
    assert [conversation.learns(i) for i in range(4)] == [False, False, False, True]


def test_reasoning_content_is_kept_apart(tmp_path: Path):
    answer = {"role": "assistant", "content": "b", "reasoning_content": "why"}
    (conversation,) = read_conversations(written(tmp_path, {"messages": [{"role": "user", "content": "a"}, answer]}))
    assert conversation.messages[1].reasoning == "why"


JANET = "Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs.\nShe makes 9 * 2 = $<<9*2=18>>18.\n#### 18"


def test_a_gsm8k_answer_comes_apart_into_steps_marks_and_final_answer():
    apart = gsm8k.worked(JANET)
    assert apart.steps == "Janet sells 16 - 3 - 4 = 9 eggs.\nShe makes 9 * 2 = $18."
    assert apart.marks == (("16-3-4", "9"), ("9*2", "18"))
    assert apart.final == "18"


def test_calculator_marks_are_left_out_unless_asked_for(tmp_path: Path):
    path = written(tmp_path, {"question": "How much?", "answer": JANET})
    without = read_conversations(path)[0].messages[1].content
    kept = read_conversations(path, "gsm8k", {"calculator_marks": True})[0].messages[1].content
    assert without == "Janet sells 16 - 3 - 4 = 9 eggs.\nShe makes 9 * 2 = $18.\n#### 18"
    assert kept == JANET


@settings(deadline=None)
@given(st.text())
def test_any_answer_comes_apart_without_losing_its_last_line(answer: str):
    final = gsm8k.worked(f"{answer}\n#### 42").final
    assert final == "42"


def test_a_format_of_ones_own_is_a_file(tmp_path: Path):
    entry = tmp_path / "mine.py"
    entry.write_text(
        "from thinkling.data.fields import Keys\n"
        "from thinkling.data.types import Conversation, Message\n"
        "KEYS = (Keys({'q': '', 'a': ''}),)\n"
        "def recognises(row): return KEYS[0].match(row)\n"
        "def conversation(row, where):\n"
        "    return Conversation((Message('user', row['q']), Message('assistant', row['a'])), where)\n"
    )
    (conversation,) = read_conversations(written(tmp_path, {"q": "1 + 1", "a": "2"}), str(entry))
    assert said(conversation) == [("user", "1 + 1"), ("assistant", "2")]


# files --------------------------------------------------------------------------------------------------------------


def test_lines_and_lists_and_gzip_and_byte_order_marks_give_the_same_rows(tmp_path: Path):
    rows = [{"prompt": "甲", "completion": str(i)} for i in range(3)]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    whole = json.dumps(rows, indent=1).encode()
    files = {"a.jsonl": lines, "b.json": b"\xef\xbb\xbf" + whole, "c.jsonl.gz": gzip.compress(lines), "d.json": lines}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert list(read_rows(tmp_path / name)) == list(enumerate(rows, 1)), name


def test_a_line_separator_inside_a_text_ends_no_row(tmp_path: Path):
    path = written(tmp_path, {"prompt": "a\u2028b\x85c", "completion": "d"})
    assert [row["prompt"] for _, row in read_rows(path)] == ["a\u2028b\x85c"]


GOOD = b'{"prompt": "a", "completion": "b"}\n'


@pytest.mark.parametrize(
    ("content", "what", "where"),
    [
        (GOOD + b'{"prompt": "a", "compl\n', "broken JSON", "line 2"),
        (GOOD + GOOD + b"[1, 2]\n", "a row is a JSON object, and this is list", "line 3"),
        (GOOD + b"null\n", "a row is a JSON object, and this is NoneType", "line 2"),
        (b'[{"prompt": "a", "completion": "b"},\n {"prompt": }]', "broken JSON", "line 2, character"),
        (b'[{"prompt": "a", "completion": "b"}, 3]', "this is int", "item 2"),
        (GOOD + '{"prompt": "你好吗", "completion": "b"}'.encode("gb18030"), "perhaps GB18030", "line 2, byte 13"),
        ('{"prompt": "a"}'.encode("utf-16"), "UTF-16", "line 1"),
        (GOOD + b'{"prompt": "\\ud83d", "completion": "b"}', "lone surrogate", "line 2"),
        (b"[" * 100_000, "cannot be read", "rows.jsonl"),
        (b'{"a": ' + b"1" * 5000 + b"}", "cannot be read", "line 1"),
        (gzip.compress(GOOD * 1000)[:-20], "damaged", "rows.jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_place(tmp_path: Path, content: bytes, what: str, where: str):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert what in caught.value.what
    assert where in caught.value.where
    assert caught.value.fix


FAULTY_LISTS = [
    b'[{"prompt": "a", "completion": "b"} {"prompt": "a", "completion": "b"}]',
    b'[{"prompt": "a", "completion": "b"},]',
    b'[{"prompt": "a", "completion": "b"},\n',
    b'[{"prompt": "a", "completion": "b"}]\n ]',
    b'[{"prompt": "a",\n "compl',
    b'[{"prompt": "a", "completion": "b"}, nul]',
    b"[",
    b"[,",
]


@pytest.mark.parametrize("piece", [1, 7, 1 << 18])
@pytest.mark.parametrize("content", FAULTY_LISTS)
def test_a_broken_list_is_told_as_json_tells_it_however_much_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, piece: int
):
    monkeypatch.setattr("thinkling.data.rows.PIECE_BYTES", piece)
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(json.JSONDecodeError) as known:
        json.loads(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(tmp_path / "rows.json"))
    assert caught.value.what == f"broken JSON: {known.value.msg}"
    assert caught.value.where.endswith(f"character {known.value.colno}")
    several = known.value.lineno > 1 or b"\n" in content.strip()
    assert (f"line {known.value.lineno}," in caught.value.where) == several


@pytest.mark.parametrize(
    ("content", "what", "where"),
    [
        (b'[{"a": "b"}, {"a": "\\ud83d"}]', "lone surrogate", "rows.json, item 2"),
        (b'[{"a": "b"}, {"a": "b", "a": "c"}]', "'a' stands twice", "rows.json, item 2"),
        (b'[{"a": "b"}, {"a": ' + b"1" * 5000 + b"}]", "cannot be read", "rows.json, item 2"),
        (b'[{"a": "b"}, {"a": ' + b"[" * 100_000, "cannot be read", "rows.json, item 2"),
        ('[{"a": "b"},\n {"a": "你好吗"}]'.encode("gb18030"), "perhaps GB18030", "rows.json, byte 22"),
        (b'\xef\xbb\xbf[{"a": "\xff"}]', "some other encoding", "rows.json, byte 12"),
    ],
)
@pytest.mark.parametrize("piece", [5, 1 << 18])
def test_a_fault_in_a_list_is_told_with_its_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, what: str, where: str, piece: int
):
    monkeypatch.setattr("thinkling.data.rows.PIECE_BYTES", piece)
    (tmp_path / "rows.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(tmp_path / "rows.json"))
    assert what in caught.value.what
    assert caught.value.where.endswith(where)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def _streamed(text: str, lengths: list[int]) -> list[Any]:
    """The values of a list that comes in pieces of these lengths, over and over."""
    cuts = itertools.accumulate(itertools.cycle(lengths))
    places = [0, *itertools.takewhile(lambda place: place < len(text), cuts), len(text)]
    pieces = [text[low:high] for low, high in itertools.pairwise(places)]
    return [value for value, _ in json_list.values(iter(pieces), json.JSONDecoder())]


@example([0.0, -1.5e-7, True], [1], None, True)
@settings(deadline=None)
@given(
    st.lists(anything, max_size=6),
    st.lists(st.integers(1, 30), min_size=1),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)
def test_a_list_read_in_pieces_is_the_list_that_json_reads(values: Any, lengths: list[int], indent: Any, ascii: bool):
    text = json.dumps(values, indent=indent, ensure_ascii=ascii)
    assert repr(_streamed(text, lengths)) == repr(json.loads(text))  # NaN is not equal to itself


@settings(deadline=None, max_examples=400)
@given(st.data(), st.lists(anything, min_size=1, max_size=4), st.lists(st.integers(1, 30), min_size=1))
def test_a_list_with_a_fault_read_in_pieces_has_the_fault_that_json_finds(data: Any, values: Any, lengths: list[int]):
    text = json.dumps(values, indent=data.draw(st.sampled_from([None, 1])))
    place = data.draw(st.integers(1, len(text)))
    end = data.draw(st.integers(place, min(len(text), place + 3)))
    text = text[:place] + data.draw(st.text('[]{},:"\\u019e-+.tn \n', max_size=3)) + text[end:]

    def found(read: Callable[[], Any]) -> Any:
        try:
            return repr(read())
        except json.JSONDecodeError as error:
            return error.msg, error.lineno, error.colno

    assert found(lambda: _streamed(text, lengths)) == found(lambda: json.loads(text))


@pytest.mark.parametrize("text", ["[[]e0", "[[]e0]", "[1e0]", '[""e0]', "[1.5]", "[1 .5]", "[null null]", "[2,.5]"])
def test_no_value_grows_together_with_the_one_before_it(text: str):
    def found(read: Callable[[], Any]) -> Any:
        try:
            return repr(read())
        except json.JSONDecodeError as error:
            return error.msg, error.lineno, error.colno

    assert found(lambda: _streamed(text, [1])) == found(lambda: json.loads(text))


def test_memory_does_not_grow_with_a_list(tmp_path: Path):
    row = json.dumps({"prompt": "a" * 500, "completion": "b" * 500})
    (tmp_path / "rows.json").write_text("[" + ",\n".join([row] * 20_000) + "]")
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(tmp_path / "rows.json")) == 20_000
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20 * 2**18  # the file has 20 MB


def test_no_more_of_a_list_is_read_than_rows_are_wanted(tmp_path: Path):
    good = '{"prompt": "a", "completion": "b"}'
    (tmp_path / "rows.json").write_text(f"[{good}, {good}, no JSON")
    assert len(read_conversations(tmp_path / "rows.json", n=2)) == 2


def test_a_missing_file_is_told_the_closest_name(tmp_path: Path):
    written(tmp_path, name="train.jsonl")
    with pytest.raises(DataError, match=r"train\.jsonl"):
        list(read_rows(tmp_path / "trian.jsonl"))


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"'\.parquet' files cannot be read"):
        list(read_rows(tmp_path / "rows.parquet"))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_reading_fail_otherwise_than_with_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(content)
    try:
        rows = list(read_rows(path))
    except DataError:
        return
    assert all(isinstance(row, dict) for _, row in rows)


# rows that are refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": "a", "outptu": "b"}, ["its keys: instruction, outptu", "'alpaca'", "add output", "outptu"]),
        ({"prompt": "a", "completion": "b", "tools": []}, ["'prompt_completion'", "take out or rename tools"]),
        ({"text": "a"}, ["its keys: text", "the formats are", "question, answer"]),
        ({}, ["its keys: none"]),
        ({"conversations": []}, ["its keys: conversations", "other keys"]),
        ({"prompt": "a", "completion": 3}, ["'completion' is int, not text"]),
        ({"prompt": " ", "completion": "b"}, ["the prompt is empty"]),
        ({"question": "", "answer": "b"}, ["the question is empty"]),
        ({"instruction": "", "input": "", "output": "b"}, ["both empty"]),
        ({"instruction": "a", "output": "b", "history": [["a"]]}, ["no pair", "turn 1"]),
        ({"messages": [{"role": "user", "content": None}]}, ["message 1", "'content'"]),
        ({"messages": [{"role": "robot", "content": "a"}]}, ["no role 'robot'"]),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": []}]}, ["tool_calls"]),
        ({"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}, ["weight is 0.5"]),
        ({"messages": "hello"}, ["'messages' is str, not a list"]),
        ({"conversations": [{"from": "observation", "value": "a"}]}, ["no speaker 'observation'"]),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_the_mend(tmp_path: Path, row: dict[str, Any], words: list[str]):
    path = written(tmp_path, {"prompt": "a", "completion": "b"}, row)
    with pytest.raises(DataError) as caught:
        read_conversations(path)
    assert "line 2" in caught.value.where
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_row_of_another_format_than_the_named_one_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="not of the format 'alpaca'"):
        read_conversations(written(tmp_path, {"prompt": "a", "completion": "b"}), "alpaca")


def test_an_option_the_format_does_not_have_is_refused(tmp_path: Path):
    path = written(tmp_path, {"question": "a", "answer": "b"})
    with pytest.raises(ConfigError, match="did you mean 'calculator_marks'"):
        read_conversations(path, "gsm8k", {"calculator_mark": True})
    with pytest.raises(ConfigError, match="none is named"):
        read_conversations(path, options={"calculator_marks": True})


def test_a_key_that_stands_twice_is_refused_at_any_depth(tmp_path: Path):
    for row in (
        '{"prompt": "a", "prompt": "b", "completion": "c"}',
        '{"messages": [{"role": "user", "role": "tool"}]}',
    ):
        (tmp_path / "rows.jsonl").write_text(row)
        with pytest.raises(DataError, match=r"the key '(prompt|role)' stands twice"):
            list(read_rows(tmp_path / "rows.jsonl"))


def test_a_pipe_in_place_of_a_file_is_called_one(tmp_path: Path):
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="is a pipe or a device"):
        list(read_rows(tmp_path / "rows.jsonl"))


def test_a_file_that_may_not_be_read_is_told_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = written(tmp_path, {"prompt": "a", "completion": "b"})

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)  # root may read whatever its mode says
    with pytest.raises(DataError, match="cannot be read: Permission denied") as caught:
        list(read_rows(path))
    assert caught.value.where == str(path)


def test_reading_tells_how_far_it_is_in_bytes_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from thinkling.core.progress import Silent

    class Heard(Silent):
        phases: list[tuple[str, float]] = []  # noqa: RUF012
        told: list[float] = []  # noqa: RUF012

        def start(self, phase: str, total: float, unit: str) -> None:
            self.phases.append((unit, total))

        def advance(self, done: float, **facts: float) -> None:
            self.told.append(done)

    monkeypatch.setattr("thinkling.data.rows.TELL_EVERY_S", 0.0)
    path = written(tmp_path, *[{"prompt": "a", "completion": "b" * 9}] * 3)
    read_conversations(path, progress=Heard())
    assert Heard.phases == [("bytes", path.stat().st_size)]
    assert len(Heard.told) == 4
    assert Heard.told[-1] == path.stat().st_size


def test_no_more_of_a_file_is_read_than_rows_are_wanted(tmp_path: Path):
    path = written(tmp_path, {"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"})
    path.write_text(path.read_text() + "no JSON\n")
    assert len(read_conversations(path, n=2)) == 2
    with pytest.raises(DataError, match="broken JSON"):
        read_conversations(path, n=3)

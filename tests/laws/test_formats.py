"""What every entry of the shelf `formats` keeps to, a new file included."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkling.core import shelf
from thinkling.core.errors import DataError
from thinkling.data.types import Conversation

NAMES = shelf.names("formats")
every_format = pytest.mark.parametrize("name", NAMES)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "from", "content", "value"]), inner)
    ),
    max_leaves=6,
)


def strings_in(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return {text for one in inner for text in strings_in(one)}


@every_format
def test_an_entry_has_a_docstring_keys_with_meanings_and_an_example(name: str):
    entry = shelf.entry("formats", name)
    assert entry.__doc__
    assert all(meaning for keys in entry.KEYS for meaning in {**keys.required, **keys.optional}.values())
    assert entry.recognises(entry.EXAMPLE)


@every_format
def test_no_other_entry_recognises_the_example(name: str):
    example = shelf.entry("formats", name).EXAMPLE
    assert [other for other in NAMES if shelf.entry("formats", other).recognises(example)] == [name]


@every_format
def test_no_text_of_the_example_is_lost(name: str):
    entry = shelf.entry("formats", name)
    conversation = entry.conversation(entry.EXAMPLE, "here")
    kept = "\n".join(f"{m.content}\n{m.reasoning}" for m in conversation.messages).replace("<<15-8=7>>", "")
    names = {"user", "assistant", "human", "gpt"}  # who speaks is in the role
    for text in strings_in(entry.EXAMPLE) - names:
        assert text.replace("<<15-8=7>>", "") in kept, text


@every_format
def test_the_example_learns_its_last_message_and_knows_its_place(name: str):
    entry = shelf.entry("formats", name)
    conversation = entry.conversation(entry.EXAMPLE, "here")
    assert conversation.messages[-1].role == "assistant"
    assert conversation.learns(len(conversation.messages) - 1)
    assert conversation.source == "here"


@every_format
def test_a_key_too_few_or_too_many_is_not_recognised(name: str):
    entry = shelf.entry("formats", name)
    required = {key for keys in entry.KEYS for key in keys.required}
    for key in required & entry.EXAMPLE.keys():
        assert not entry.recognises({k: v for k, v in entry.EXAMPLE.items() if k != key}), key
    assert not entry.recognises({**entry.EXAMPLE, "surprise": "text"})


@every_format
def test_reading_a_row_leaves_the_row_as_it_was(name: str):
    entry = shelf.entry("formats", name)
    before = copy.deepcopy(entry.EXAMPLE)
    entry.conversation(entry.EXAMPLE, "here")
    assert before == entry.EXAMPLE


@every_format
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_recognised_row_gives_a_conversation_of_texts_or_a_data_error(name: str, data: st.DataObject):
    entry = shelf.entry("formats", name)
    row = {**entry.EXAMPLE, data.draw(st.sampled_from(sorted(entry.EXAMPLE))): data.draw(json_values)}
    if not entry.recognises(row):
        return
    try:
        conversation = entry.conversation(row, "here")
    except DataError as error:
        told = error.where.startswith("here") and bool(error.fix)
    else:
        told = isinstance(conversation, Conversation)
        told &= all(isinstance(m.role, str) and isinstance(m.content, str) for m in conversation.messages)
    assert told

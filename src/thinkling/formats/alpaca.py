"""Stanford Alpaca's rows: instruction, input and output, with LLaMA-Factory's system and history.

The user's message is the instruction, with the input on the next line where there is one. The answers in `history` are
learnt like the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thinkling.core.errors import DataError
from thinkling.data.fields import Keys, items, optional_text, text
from thinkling.data.types import Conversation, Message

KEYS = (
    Keys(
        {"instruction": "the task", "output": "the answer"},
        {
            "input": "what the task is about",
            "system": "system message",
            "history": "earlier turns, a list of [question, answer]",
        },
    ),
)
EXAMPLE = {
    "instruction": "Work it out.",
    "input": "15 - 8",
    "output": "15 - 8 = 7",
    "system": "Answer with an equation.",
    "history": [["What is 1 + 1?", "1 + 1 = 2"]],
}


def recognises(row: Mapping[str, Any]) -> bool:
    """By its keys."""
    return KEYS[0].match(row)


def conversation(row: Mapping[str, Any], where: str) -> Conversation:
    """The row as a conversation.

    Raises:
        DataError: There is no question, a field is no text, or the history is no list of pairs.
    """
    system = optional_text(row, "system", where)
    messages = [] if system is None else [Message("system", system)]
    for number, pair in enumerate(items(row, "history", where) if row.get("history") else [], 1):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(side, str) for side in pair):
            raise DataError(
                "a turn of the history is no pair of texts",
                where=f"{where}, turn {number}",
                fix="write the history as a list of [question, answer]",
            )
        messages += [Message("user", pair[0]), Message("assistant", pair[1])]
    question = "\n".join(filter(None, [text(row, "instruction", where), optional_text(row, "input", where)]))
    if not question.strip():
        raise DataError("instruction and input are both empty", where=where, fix="say what the answer answers")
    return Conversation((*messages, Message("user", question), Message("assistant", text(row, "output", where))), where)

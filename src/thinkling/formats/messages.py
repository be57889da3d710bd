"""OpenAI's chat rows: a list of messages with role and content, under "messages" or "conversations".

A message may carry `reasoning_content` (the thought before an answer) and, as in OpenAI's fine-tuning files, `weight`
0 or 1: whether an assistant's message is learnt. Without it all of them are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thinkling.core.errors import DataError
from thinkling.data.fields import Keys, items, optional_text, text
from thinkling.data.types import Conversation, Message

KEYS = (
    Keys({"messages": "list of {role, content}"}),
    Keys({"conversations": "list of {role, content}, as MiniMind writes it"}),
)
MESSAGE = Keys(
    {"role": "system, user, assistant or tool", "content": "text"},
    {"reasoning_content": "the thought before the content", "weight": "0: not learnt, 1: learnt; assistant only"},
)
EXAMPLE = {
    "messages": [
        {"role": "user", "content": "What is 15 - 8?"},
        {"role": "assistant", "content": "15 - 8 = 7", "reasoning_content": "I take 5, then 3."},
    ]
}
ROLES = ("system", "user", "assistant", "tool")


def recognises(row: Mapping[str, Any]) -> bool:
    """By its one key; under "conversations" the first item must have a role, for ShareGPT uses that key too."""
    if not any(keys.match(row) for keys in KEYS):
        return False
    return "messages" in row or _first_has_role(row["conversations"])


def _first_has_role(turns: Any) -> bool:
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "role" in turns[0]


def conversation(row: Mapping[str, Any], where: str) -> Conversation:
    """The row as a conversation.

    Raises:
        DataError: A message has other keys, another role or no text.
    """
    key = "messages" if "messages" in row else "conversations"
    turns = items(row, key, where)
    messages = tuple(_message(turn, f"{where}, message {number}") for number, turn in enumerate(turns, 1))
    if all("weight" not in turn for turn in turns):
        return Conversation(messages, where)
    learnt = tuple(
        m.role == "assistant" and turn.get("weight", 1) == 1 for m, turn in zip(messages, turns, strict=True)
    )
    return Conversation(messages, where, learnt)


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict) or not MESSAGE.match(turn):
        keys = ", ".join(turn) if isinstance(turn, dict) else type(turn).__name__
        raise DataError(f"a message has the keys {keys}", where=where, fix=f"the keys are {MESSAGE}")
    role = text(turn, "role", where)
    if role not in ROLES:
        raise DataError(f"there is no role '{role}'", where=where, fix=f"the roles are {', '.join(ROLES)}")
    if turn.get("weight", 1) not in (0, 1):
        raise DataError(f"weight is {turn['weight']!r}", where=where, fix="a message is learnt (1) or not (0)")
    return Message(role, text(turn, "content", where), optional_text(turn, "reasoning_content", where))

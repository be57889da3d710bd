"""ShareGPT's rows: "conversations", a list of turns with from and value. Every answer in it is learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thinkling.core.errors import DataError
from thinkling.data.fields import Keys, items, optional_text, text
from thinkling.data.types import Conversation, Message

KEYS = (Keys({"conversations": "list of {from, value}"}, {"system": "system message, before the turns"}),)
TURN = Keys({"from": "who speaks", "value": "text"})
EXAMPLE = {
    "conversations": [{"from": "human", "value": "What is 15 - 8?"}, {"from": "gpt", "value": "15 - 8 = 7"}],
    "system": "Answer with an equation.",
}
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def recognises(row: Mapping[str, Any]) -> bool:
    """By its keys, and a first turn that has "from"."""
    if not KEYS[0].match(row):
        return False
    turns = row["conversations"]
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "from" in turns[0]


def conversation(row: Mapping[str, Any], where: str) -> Conversation:
    """The row as a conversation.

    Raises:
        DataError: A turn has other keys, an unknown speaker or no text.
    """
    turns = items(row, "conversations", where)
    system = optional_text(row, "system", where)
    first = () if system is None else (Message("system", system),)
    messages = tuple(_message(turn, f"{where}, turn {number}") for number, turn in enumerate(turns, 1))
    return Conversation(first + messages, where)


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict) or not TURN.match(turn):
        keys = ", ".join(turn) if isinstance(turn, dict) else type(turn).__name__
        raise DataError(f"a turn has the keys {keys}", where=where, fix=f"the keys are {TURN}")
    speaker = text(turn, "from", where)
    if speaker not in ROLES:
        raise DataError(f"there is no speaker '{speaker}'", where=where, fix=f"the speakers are {', '.join(ROLES)}")
    return Message(ROLES[speaker], text(turn, "value", where))

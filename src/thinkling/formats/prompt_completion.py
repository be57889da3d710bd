"""Rows of a prompt and what the model should add to it; "response" in place of "completion" means the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thinkling.core.errors import DataError
from thinkling.data.fields import Keys, optional_text, text
from thinkling.data.types import Conversation, Message

ALSO = {"system": "system message"}
KEYS = (
    Keys({"prompt": "what the user says", "completion": "the answer"}, ALSO),
    Keys({"prompt": "what the user says", "response": "the answer"}, ALSO),
)
EXAMPLE = {"prompt": "What is 15 - 8?", "completion": "15 - 8 = 7"}


def recognises(row: Mapping[str, Any]) -> bool:
    """By its keys."""
    return any(keys.match(row) for keys in KEYS)


def conversation(row: Mapping[str, Any], where: str) -> Conversation:
    """One question and one answer.

    Raises:
        DataError: The prompt is empty, or a field is no text.
    """
    system = optional_text(row, "system", where)
    prompt = text(row, "prompt", where)
    if not prompt.strip():
        raise DataError("the prompt is empty", where=where, fix="say what the completion answers")
    answer = text(row, "completion" if "completion" in row else "response", where)
    first = () if system is None else (Message("system", system),)
    return Conversation((*first, Message("user", prompt), Message("assistant", answer)), where)

"""Rows of a question and a worked answer, as in GSM8K (Cobbe et al. 2021, arXiv:2110.14168).

Its answers carry calculator marks, "48/2 = <<48/2=24>>24", and end in a line "#### 72". `worked` takes the three apart;
what is trained on is the text without the marks, for a model without a calculator learns nothing from them, and with
the final line. `calculator_marks=True` leaves them in. An answer without either is taken as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thinkling.core.errors import DataError
from thinkling.data.fields import Keys, text
from thinkling.data.types import Conversation, Message

KEYS = (Keys({"question": "the problem", "answer": "worked steps, then a line '#### answer'"}),)
EXAMPLE = {"question": "What is 15 - 8?", "answer": "15 - 8 = <<15-8=7>>7\n#### 7"}
MARK = re.compile(r"<<([^<>\n]*?)=([^<>=\n]*)>>")
FINAL = re.compile(r"\n?#### *([^\n]*)\s*\Z")


@dataclass(frozen=True)
class Worked:
    """A worked answer taken apart."""

    steps: str
    """The text, without marks and final line."""
    marks: tuple[tuple[str, str], ...]
    """(expression, result) of each calculator mark, in order."""
    final: str | None
    """What stands on the final answer line; None where there is none."""


def worked(answer: str) -> Worked:
    """Steps, calculator marks and final answer of one GSM8K answer.

    Example:
        >>> worked("48/2 = <<48/2=24>>24 clips\\n#### 24")
        Worked(steps='48/2 = 24 clips', marks=(('48/2', '24'),), final='24')
    """
    final = FINAL.search(answer)
    steps = answer[: final.start()] if final else answer
    marks = tuple((match[1].strip(), match[2].strip()) for match in MARK.finditer(steps))
    return Worked(MARK.sub("", steps), marks, final[1].strip() if final else None)


def recognises(row: Mapping[str, Any]) -> bool:
    """By its keys."""
    return KEYS[0].match(row)


def conversation(row: Mapping[str, Any], where: str, *, calculator_marks: bool = False) -> Conversation:
    """One question and its worked answer.

    Raises:
        DataError: The question is empty, or a field is no text.
    """
    question, answer = text(row, "question", where), text(row, "answer", where)
    if not question.strip():
        raise DataError("the question is empty", where=where, fix="say what the answer answers")
    if not calculator_marks:
        answer = MARK.sub("", answer)
    return Conversation((Message("user", question), Message("assistant", answer)), where)

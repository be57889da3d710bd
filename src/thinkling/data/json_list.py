"""The values of a JSON list, one after the other, so that memory holds one of them and never the list.

A window slides over the text. json's own decoder reads each value out of it, and words each fault: where it fails at
the window's edge, the window is made larger and the value is read again; where it fails elsewhere, the fault is real.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

WHITE = re.compile(r"[ \t\n\r]*")
EDGE = 16
"""What ends so near to the end of the window may be a number, a word or an escape that is cut, such as -Infinity."""
WITHOUT_END = "Unterminated string"
"""json tells a string that is cut by where it begins."""
AFTER_A_VALUE = '[""'
"""What stands for the values already read. No letter after it is a part of it, as e0 after [0 would be."""


def values(pieces: Iterable[str], decoder: json.JSONDecoder) -> Iterator[tuple[Any, str]]:
    """Each value of a list with the text that it stands in.

    Args:
        pieces: The text of one whole JSON document, which is a list.
        decoder: Reads the values; its hooks are called as ever.

    Raises:
        json.JSONDecodeError: With the words, line and column that `json.loads` of the whole text would have.
        ValueError, RecursionError: As `json.loads`, and whatever a hook raises.
    """
    window = _Window(iter(pieces))
    before = ""  # what stands for all that has been read, before the rest of the text
    while before != "[]":
        try:
            before, value, end = _next(before, window, decoder)
        except _CutError:
            window.grow()
            continue
        if before == AFTER_A_VALUE:
            yield value, window.text[window.place : end]
        window.place = end
    while True:
        rest = WHITE.match(window.text, window.place)
        assert rest is not None
        if rest.end() < len(window.text):
            _complain(before, window, decoder)
        if window.is_last:
            return
        window.grow()


class _CutError(Exception):
    """The window ends too early to tell."""


class _Window:
    """A part of the text; what has been read is left behind."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self.text = ""
        self.place = 0
        """Up to here everything has been read."""
        self.is_last = False
        """Whether the text ends with it."""
        self._line = self._column = 1

    def grow(self) -> None:
        """Leave behind what has been read, and take in at least as much as is left: a long value is read few times."""
        _, self._line, self._column = self.where(self.place)
        parts = [self.text[self.place :]]
        wanted = max(1, 2 * len(parts[0]))
        while sum(map(len, parts)) < wanted and not self.is_last:
            piece = next(self._pieces, None)
            self.is_last = piece is None
            parts.append(piece or "")
        self.text, self.place = "".join(parts), 0

    def where(self, place: int) -> tuple[int, int, int]:
        """A place of the window, and its line and column in the text."""
        lines = self.text.count("\n", 0, place)
        column = place - self.text.rindex("\n", 0, place) if lines else self._column + place
        return place, self._line + lines, column


def _next(before: str, window: _Window, decoder: json.JSONDecoder) -> tuple[str, Any, int]:
    """What is read now, the value where there is one, and where it ends."""
    place = _after_white(window, window.place)
    sign = window.text[place : place + 1]
    if before == "" and sign == "[":
        return "[", None, place + 1
    if before in ("[", AFTER_A_VALUE) and sign == "]":
        return "[]", None, place + 1
    if before == "" or (before == AFTER_A_VALUE and sign != ","):
        _complain(before, window, decoder)
    if before == AFTER_A_VALUE:
        place = _after_white(window, place + 1)
    try:
        value, end = decoder.raw_decode(window.text, place)
    except json.JSONDecodeError as error:
        near = error.pos > len(window.text) - EDGE or error.msg.startswith(WITHOUT_END)
        if near and not window.is_last:
            raise _CutError from None
        _complain(before, window, decoder)
    if end > len(window.text) - EDGE and not window.is_last:  # 12 may go on as 12.5e-3
        raise _CutError
    return AFTER_A_VALUE, value, end


def _after_white(window: _Window, place: int) -> int:
    found = WHITE.match(window.text, place)
    assert found is not None
    if found.end() == len(window.text) and not window.is_last:
        raise _CutError
    return found.end()


def _complain(before: str, window: _Window, decoder: json.JSONDecoder) -> NoReturn:
    """Have json word the fault that lies behind `window.place`."""
    try:
        decoder.decode(before + window.text[window.place :])
    except json.JSONDecodeError as error:
        told = json.JSONDecodeError(error.msg, window.text, max(0, error.pos - len(before) + window.place))
        _, told.lineno, told.colno = window.where(told.pos)
        raise told from None
    raise AssertionError(window.text[window.place :])

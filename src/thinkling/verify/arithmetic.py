"""Written arithmetic: its tokens, and its exact value by recursive descent. Python's own `eval` never sees model text.

Numbers, + - * /, brackets and percent signs; no powers and no functions, so that the work is bounded by the budgets:
128 tokens, 32 levels of brackets, 40 digits a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

MAX_TOKENS = 128
MAX_DEPTH = 32
MAX_DIGITS = 40

TokenKind = Literal["number", "operator", "percent", "left", "right", "word", "poison", "other"]

PLAIN_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# Poison is what changes the value of a number beside it and is not read here: powers, roots, 2½, clock times, 0900.
POISON = (
    r"(?<=[0-9)])\*\*(?=[0-9(])|(?<=[0-9])[:,](?=[0-9])|\^|√|\\sqrt|[²³⁰¹⁴⁵⁶⁷⁸⁹¼½¾⅐-⅞_]|\.\.+|…"
    rf"|[0-9]{{{MAX_DIGITS},}}|(?<![0-9.,])0[0-9]+|\.[0-9]+\."
)
TOKEN = re.compile(
    rf"""(?P<poison>{POISON})
    | (?P<skip>\s+|\*\*+|[$£€¥&`]|\\[()\[\]$,;!:\ ]|\\(?:left|right|quad|displaystyle)(?![A-Za-z]))
    | (?P<mixed>(?P<whole>[0-9]{{1,6}})\ (?:and\ )?(?P<part_top>[0-9]{{1,4}})/(?P<part_bottom>[0-9]{{1,4}})(?![0-9/.]))
    | (?P<fraction>\\[dtc]?frac\s?\{{\s?(?P<top>{PLAIN_NUMBER})\s?\}}\s?\{{\s?(?P<bottom>{PLAIN_NUMBER})\s?\}})
    | (?P<number>{PLAIN_NUMBER})
    | (?P<percent>\\?%)
    | (?P<operator>[-+*/]|\\(?:times|cdot|div)(?![A-Za-z]))
    | (?P<left>\()
    | (?P<right>\))
    | (?P<word>[^\W\d_]+(?:['.-][^\W\d_]+)*)
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
# Behind a number, a word that changes its value: "2 million * 3", "50 * 20 percent", "2 squared", "4 tens", 3万, 5个半.
VALUE_WORD = re.compile(
    r"(?:squared|cubed|percent|tens|(?:hundred|thousand|million|billion|trillion)s?|hal(?:f|ves)|(?:third|fourth|fifth)s)$"
    r"|[万亿]|.?半",
    re.IGNORECASE,
)
SPELLED = {"x": "*", "times": "*", "of": "*", "plus": "+", "minus": "-", "\\times": "*", "\\cdot": "*", "\\div": "/"}


class Unreadable(Exception):
    """This is no arithmetic that we read."""


class TooLong(Exception):
    """Beyond the budgets."""


@dataclass(frozen=True)
class Token:
    """A piece of a line of text; spaces, bold marks and currency signs between pieces are left out."""

    kind: TokenKind
    start: int
    end: int
    text: str
    """As written; of an operator its plain sign."""
    value: Fraction = Fraction(0)
    spelled: bool = False
    """Whether this is an operator written as a word."""


@dataclass(frozen=True)
class Value:
    """The value of an expression."""

    number: Fraction
    is_percent: bool = False
    """Whether it is a percentage, or a sum of percentages; `number` is then already divided by 100."""


def tokens(line: str, start: int, end: int) -> list[Token]:
    """The tokens of line[start:end]; their positions are positions in the line."""
    found = [_token(match) for match in TOKEN.finditer(line, start, end) if match["skip"] is None]
    for index, word in enumerate(found):
        if word.kind != "word" or index == 0:
            continue
        if _is_operator(found, index):
            found[index] = Token("operator", word.start, word.end, SPELLED[word.text.lower()], spelled=True)
        elif found[index - 1].kind in ("number", "right") and VALUE_WORD.match(word.text):
            found[index] = replace(word, kind="poison")
    return found


def _token(match: re.Match[str]) -> Token:
    start, end, written = match.start(), match.end(), match[0]
    if match["number"]:
        return Token("number", start, end, written, _decimal(written))
    if match["operator"]:
        return Token("operator", start, end, SPELLED.get(written, written))
    if match["mixed"] or match["fraction"]:
        return _fraction(match)
    kinds: tuple[TokenKind, ...] = ("percent", "left", "right", "word", "poison")
    kind: TokenKind = next((kind for kind in kinds if match[kind] is not None), "other")
    return Token(kind, start, end, written)


def _fraction(match: re.Match[str]) -> Token:
    """3 1/2 or \\frac{7}{2}; an improper part or a zero below the line makes it poison."""
    whole = _decimal(match["whole"] or "0")
    top, bottom = _decimal(match["part_top"] or match["top"]), _decimal(match["part_bottom"] or match["bottom"])
    if bottom == 0 or (match["mixed"] and top >= bottom):
        return Token("poison", match.start(), match.end(), match[0])
    return Token("number", match.start(), match.end(), match[0], whole + top / bottom)


def _decimal(text: str) -> Fraction:
    whole, _, after = text.replace(",", "").partition(".")
    return Fraction(int(whole + after), 10 ** len(after))


def _is_operator(found: list[Token], index: int) -> bool:
    """'x', 'times', 'plus' and 'minus' between two numbers, and 'of' after a percentage or a fraction."""
    if index + 1 == len(found):
        return False
    before, word, after = found[index - 1], found[index], found[index + 1]
    if word.text.lower() not in SPELLED or after.kind not in ("number", "left"):
        return False
    if word.text.lower() == "of":
        return before.kind == "percent" or (before.kind == "number" and index >= 2 and found[index - 2].text == "/")
    # Also behind what is not read, such as "¾ x 3/3": else the right factor would be taken for the whole.
    return before.kind in ("number", "right", "percent", "poison") or (
        before.kind == "word" and word.text.lower() == "x"
    )


def evaluate(expression: list[Token]) -> Value:
    """The exact value of number, operator, percent and bracket tokens.

    Raises:
        TooLong: Beyond the budgets.
        Unreadable: No expression; or one with two readings: a percentage added to a plain number ("80 - 20%"), a
            fraction written tight behind a loose division ("3 / 1/2").
        ZeroDivisionError: It divides by zero.
    """
    if len(expression) > MAX_TOKENS:
        raise TooLong
    if any(_two_readings(expression[index : index + 4]) for index in range(len(expression) - 3)):
        raise Unreadable
    value, index = _sum(expression, 0, 0)
    if index != len(expression):
        raise Unreadable
    return value


def _two_readings(four: list[Token]) -> bool:
    slash, top, line, bottom = four
    return (
        slash.text == line.text == "/" and slash.end < top.start and top.end == line.start and line.end == bottom.start
    )


def _sum(expression: list[Token], index: int, depth: int) -> tuple[Value, int]:
    value, index = _product(expression, index, depth)
    while index < len(expression) and expression[index].text in ("+", "-"):
        operator = expression[index].text
        other, index = _product(expression, index + 1, depth)
        if value.is_percent != other.is_percent:
            raise Unreadable
        value = Value(value.number + other.number if operator == "+" else value.number - other.number, value.is_percent)
    return value, index


def _product(expression: list[Token], index: int, depth: int) -> tuple[Value, int]:
    value, index = _operand(expression, index, depth)
    while index < len(expression) and expression[index].text in ("*", "/"):
        operator = expression[index].text
        other, index = _operand(expression, index + 1, depth)
        value = Value(value.number * other.number if operator == "*" else value.number / other.number)
    return value, index


def _operand(expression: list[Token], index: int, depth: int) -> tuple[Value, int]:
    if depth > MAX_DEPTH:
        raise TooLong
    token = expression[index] if index < len(expression) else None
    if token is not None and token.text in ("+", "-"):
        inner, index = _operand(expression, index + 1, depth + 1)
        return Value(-inner.number if token.text == "-" else inner.number, inner.is_percent), index
    if token is not None and token.kind == "left":
        value, index = _sum(expression, index + 1, depth + 1)
        if index >= len(expression) or expression[index].kind != "right":
            raise Unreadable
    elif token is not None and token.kind == "number":
        value = Value(token.value)
    else:
        raise Unreadable
    index += 1
    if index < len(expression) and expression[index].kind == "percent":
        return Value(value.number / 100, is_percent=True), index + 1
    return value, index

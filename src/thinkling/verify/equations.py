"""Every arithmetic equation that a text writes down, and whether it is true: "48 / 2 = 24", "<<48/2=24>>".

The text is split at its equals signs. To the left of a sign we take the longest arithmetic expression that ends there,
to the right the longest that begins there, and work both out exactly (verify/arithmetic.py). What is read:

- numbers with separators, decimals, mixed numbers (3 1/2), percent, brackets, + - * × · x / ÷, "times", "plus",
  "minus", "of" after a percentage, `\\times`, `\\div`, `\\cdot`, `\\frac{3}{4}`, currency signs, bold marks;
- up to four unit words after a number: "60 miles a week * 3 days = 180". A word on the right may end the claim or be a
  unit inside it ("3 * 8 = 24 eggs - 0 broken ones"): the equation is true when either reading is;
- chains: "2 * 3 + 1 = 6 + 1 = 7" is two equations. A run-on "2 + 3 = 5 + 4 = 9" says that 5 is 9, and is false;
- a calculator mark speaks for the equation it stands in: "16 - 3 = <<16-3=13>>13" is one equation, the mark.

Not an equation: what has no operator ("x = 5", "1 hour = 60 minutes"), what has a variable, a power, a root or an
implied product in it ("2x + 3 = 7", "2(3 + 4) = 14"), LaTeX groups ("\\frac{3 + 4}{7} + 1 = 2"), a word that changes
the number before it ("2 million * 3 = 6,000,000"), "a = a" copied word for word, clock times, dates, ranges,
divisions with a remainder. Units are not converted: "$2.50 - $2 = 50 cents" is false. A decimal claim is true when it
is the exact value rounded to the places it shows; with "≈" that holds for whole numbers too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

from thinkling.verify.arithmetic import Token, TooLong, Unreadable, Value, evaluate, tokens
from thinkling.verify.characters import aligned

MAX_CHARACTERS = 200_000
MAX_EQUATIONS = 1_000
MAX_SIDE = 400
"""Characters looked at on either side of an equals sign."""
MAX_UNIT_WORDS = 4

MARK = re.compile(r"<<([^<>\n]{1,200})>>")
EQUALS = re.compile(r"(?<![<>!:~=])={1,2}(?![=>])|≈|\\approx(?![A-Za-z])")
# In Chinese a wide comma ends a clause, also right behind a digit: "3×4=12，12+5=17". "１，２００" stays one number.
CLAUSE_COMMA = re.compile(r"，(?![０-９]{3}(?![０-９]))")
TEXT_IN_LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
UNIT_LETTERS = frozenset("mgLl")
REMAINDER = frozenset(("remainder", "r", "余", "余数", "rem"))


@dataclass(frozen=True)
class Equation:
    """One written equation. Positions are characters of the text it was found in."""

    start: int
    end: int
    text: str
    left: str
    """The expression that was worked out, as written."""
    claimed: Fraction
    """What the text says its value is."""
    actual: Fraction | None
    """What its value is; None where it divides by zero or is beyond the budgets."""
    is_true: bool | None
    """False where it divides by zero, None where it is beyond the budgets and was not worked out."""


def equations(text: str) -> list[Equation]:
    """The equations of a text in their order, at most 1,000 of them.

    Example:
        >>> [(found.text, found.is_true) for found in equations("He has 48 / 2 = 24 and 24 + 48 = 62 left.")]
        [('48 / 2 = 24', True), ('24 + 48 = 62', False)]
    """
    view = _view(text[:MAX_CHARACTERS])
    found: list[Equation] = []
    start = 0
    for line in view.split("\n"):
        if "=" in line or "≈" in line or "\\approx" in line:
            found += [_moved(equation, start, text) for equation in _of_line(line, MAX_EQUATIONS - len(found))]
        start += len(line) + 1
    return found


def _view(text: str) -> str:
    """The text with the same positions and plainer characters: clauses apart, words in LaTeX bare."""
    apart = aligned(CLAUSE_COMMA.sub("、", text))
    return TEXT_IN_LATEX.sub(lambda found: " " * (len(found[0]) - len(found[1]) - 1) + found[1] + " ", apart)


def _moved(equation: Equation, offset: int, text: str) -> Equation:
    """With positions in the text instead of its line, and the text as it was written."""
    start, end = equation.start + offset, equation.end + offset
    return replace(equation, start=start, end=end, text=text[start:end])


def _of_line(line: str, room: int) -> list[Equation]:
    # A NUL in place of each mark: nothing reads across it, and an equals sign before one is left to the mark.
    bare = MARK.sub(lambda mark: "\0" * len(mark[0]), line)
    signs = list(EQUALS.finditer(bare))[:room]
    sides = [_Side(bare, start, end) for start, end in _between(signs, len(bare))]
    found: list[Equation | None] = [_of_mark(mark) for _, mark in zip(range(room), MARK.finditer(line), strict=False)]
    for index, sign in enumerate(signs):
        if bare[sign.end() : sign.end() + 8].lstrip(" $£€¥")[:1] != "\0":
            found.append(_equation(sides[index], sides[index + 1], approximate="=" not in sign[0]))
    return sorted((equation for equation in found if equation is not None), key=lambda equation: equation.start)[:room]


def _between(signs: list[re.Match[str]], length: int) -> Iterator[tuple[int, int]]:
    previous = 0
    for sign in signs:
        yield previous, sign.start()
        previous = sign.end()
    yield previous, length


def _of_mark(mark: re.Match[str]) -> Equation | None:
    """The equation inside a calculator mark: from before its first equals sign to behind its last."""
    first, last, inside = mark[1].find("="), mark[1].rfind("="), mark.start(1)
    left = _Side(mark.string, inside, inside + max(0, first))
    right = _Side(mark.string, inside + last + 1, mark.end(1))
    found = _equation(left, right, approximate=False, is_mark=True)
    return None if found is None else replace(found, start=mark.start(), end=mark.end())


@dataclass(frozen=True)
class _Side:
    """The text between two equals signs."""

    line: str
    start: int
    end: int

    @cached_property
    def last_tokens(self) -> list[Token]:
        """Those before the next equals sign."""
        return tokens(self.line, max(self.start, self.end - MAX_SIDE), self.end)

    @cached_property
    def first_tokens(self) -> list[Token]:
        """Those after the last equals sign."""
        if self.end - self.start <= MAX_SIDE:
            return self.last_tokens
        return tokens(self.line, self.start, self.start + MAX_SIDE)

    def is_cut_at(self, token: Token) -> bool:
        """Whether an expression that begins with this token may have begun earlier than we looked."""
        return self.end - self.start > MAX_SIDE and token is self.last_tokens[0]


def _equation(left: _Side, right: _Side, *, approximate: bool, is_mark: bool = False) -> Equation | None:
    """The equation around one equals sign; None where one side is no arithmetic, or there is nothing to work out."""
    try:
        before = _ending_expression(left.last_tokens, at_line_start=left.start == 0 and not is_mark)
        claims = [_beginning_expression(right.first_tokens, through_words=False)]
    except Unreadable:
        return None
    with suppress(Unreadable):  # then the short reading stands alone
        claims.append(_beginning_expression(right.first_tokens, through_words=True))
    readings = [
        _reading(left, before, claim, approximate)
        for claim in claims
        if is_mark or _says_something(left.last_tokens, before, claim)
    ]
    found = [reading for reading in readings if reading is not None]
    return next((reading for reading in found if reading.is_true), found[0] if found else None)


def _reading(side: _Side, before: list[Token], after: list[Token], approximate: bool) -> Equation | None:
    """The equation of two expressions; a number on the left of an expression is the claim: '12 = 3 * 4'."""
    claim, work = (before, after) if _is_bare(before) and not _is_bare(after) else (after, before)
    line, start, end = side.line, before[0].start, after[-1].end
    try:
        claimed = evaluate(claim)
    except (Unreadable, TooLong, ZeroDivisionError):
        return None
    found = Equation(start, end, "", line[work[0].start : work[-1].end], claimed.number, None, None)
    if side.is_cut_at(before[0]):
        return found
    try:
        actual = evaluate(work)
        is_true = _agrees(actual.number, claimed, claim, work, approximate=approximate)
    except Unreadable:
        return None
    except TooLong:
        return found
    except ZeroDivisionError:
        return replace(found, is_true=False)
    return replace(found, actual=actual.number, is_true=is_true)


def _is_bare(expression: list[Token]) -> bool:
    """Whether this is one number, with at most a sign and a percent sign."""
    numbers = [token for token in expression if token.kind == "number"]
    return len(numbers) == 1 and "/" not in numbers[0].text and "frac" not in numbers[0].text


def _says_something(side: list[Token], before: list[Token], after: list[Token]) -> bool:
    """Not 'x = 5', '3 feet = 3 * 12 inches', '1/2 a cup = 4 ounces' (conversions) or an expression written twice."""
    has_words = side[-1].kind == "word"
    if _is_bare(before) and (_is_bare(after) or has_words):
        return False
    if has_words and len(before) == 3 and before[1].text == "/" and before[0].value < before[2].value:  # 1/2 a cup = 4
        return False
    return [token.text for token in before] != [token.text for token in after]


def _agrees(actual: Fraction, claimed: Value, claim: list[Token], work: list[Token], *, approximate: bool) -> bool:
    """Whether the claim is the value, or the value rounded to the places the claim shows.

    Raises:
        Unreadable: One side is a percentage and the other is right only when it is taken as one too: "45 + 49 = 94%".
    """
    if actual == claimed.number:
        return True
    if not _is_bare(claim):
        return False
    number = next(token for token in claim if token.kind == "number")
    places = len(number.text.partition(".")[2])
    half = Fraction(1, 2 * 10**places) if places or approximate else Fraction(0)  # the most that rounding moves it
    if not claimed.is_percent:
        if any(token.kind == "percent" for token in work) and abs(actual * 100 - claimed.number) <= half:
            raise Unreadable
        return abs(actual - claimed.number) <= half
    if abs(actual * 100 - claimed.number * 100) <= half:
        return True
    if abs(actual - claimed.number * 100) > half:
        return False
    if not any(token.value == 100 for token in work):
        raise Unreadable
    return True  # "30 / 40 * 100 = 75%" is how people write it: the factor of 100 stands there


def _ending_expression(found: list[Token], *, at_line_start: bool) -> list[Token]:
    """The longest expression that ends where the tokens end, unit words left out; read from right to left.

    Raises:
        Unreadable: There is none, or what stands before it belongs to it: a variable, a power, a bracket.
    """
    taken: list[Token] = []
    depth, wants_operand = 0, True
    index = _before_units(found, len(found) - 1)
    if index < len(found) - 1 and _is_letter(found[-1]):  # "dividing by 1/3 we get X = 4"
        raise Unreadable
    while index >= 0:
        token = found[index]
        if wants_operand and token.kind in ("number", "percent", "right"):
            depth += token.kind == "right"
            wants_operand = token.kind != "number"
            index = _before_units(found, index - 1) if token.kind == "right" else index - 1
        elif not wants_operand and token.kind == "operator":
            if _is_sign(found, index, taken[-1], at_line_start=at_line_start):
                index -= 1
            elif index == 0 and token.text in "-*" and at_line_start:
                index = -1  # a bullet: "- 3 + 4 = 7"
                break
            else:
                wants_operand = True
                index = _before_units(found, index - 1)
        elif not wants_operand and token.kind == "left" and depth:
            depth -= 1
            index -= 1
        else:
            break
        taken.append(token)
    if wants_operand or depth or _spoils(found, index, taken[-1]):
        raise Unreadable
    return taken[::-1]


def _before_units(found: list[Token], index: int) -> int:
    """The place before at most four unit words. A lone letter on a number ('2x') is a variable, not a unit."""
    for _ in range(MAX_UNIT_WORDS):
        if index < 0 or found[index].kind != "word":
            break
        if index > 0 and found[index - 1].kind in ("number", "right") and _is_variable(found[index - 1], found[index]):
            raise Unreadable
        index -= 1
    return index


def _is_variable(before: Token, word: Token) -> bool:
    """A single Latin letter, unless it stands apart and may be a unit or an article: '5 m', '5 a day'."""
    if before.end == word.start:
        return len(word.text) == 1 and word.text.isascii()
    return _is_letter(word) and word.text != "a"


def _is_letter(word: Token) -> bool:
    """Whether this is a single Latin letter that is no unit."""
    return word.kind == "word" and len(word.text) == 1 and word.text.isascii() and word.text not in UNIT_LETTERS


def _is_sign(found: list[Token], index: int, operand: Token, *, at_line_start: bool) -> bool:
    """Whether this operator is the sign of the number after it: '(-3', '5 * -3', '= -3', 'so -3', not 'total - 3'."""
    token = found[index]
    touches = token.end == operand.start
    if token.text not in "+-" or token.spelled:
        return False
    if index == 0:
        return touches or not at_line_start
    before = found[index - 1]
    if before.kind in ("operator", "left"):
        return touches
    stands_apart = touches and before.end != token.start
    return stands_apart and token.text == "-" and before.kind in ("word", "other") and len(before.text) > 1


def _spoils(found: list[Token], index: int, first: Token) -> bool:
    """Whether the token before an expression belongs to it in a way that we do not read."""
    if index < 0:
        return False
    before = found[index]
    touches = before.end == first.start
    if before.kind == "poison":
        return True
    if before.kind == "right":  # (1/2) 278; but "2) 3 + 4 = 7" is an item of a list
        return touches or any(token.kind == "left" for token in found[:index])
    if before.kind in ("number", "percent"):  # 1/2 (68), 350 500: one number in two groups
        return touches or first.kind == "left" or _are_groups(before, first) or _is_fraction(first)
    return touches and before.kind == "word" and before.text.isascii()


def _is_fraction(token: Token) -> bool:
    """Behind a number it is a part of it: 2 \\frac{1}{2}."""
    return token.kind == "number" and token.text.startswith("\\")


def _are_groups(first: Token, second: Token) -> bool:
    """'350 500' may be one number."""
    return (
        first.text.isdigit()
        and len(first.text) <= 3
        and second.text[:3].isdigit()
        and len(second.text.split(".")[0]) == 3
    )


def _beginning_expression(found: list[Token], *, through_words: bool) -> list[Token]:
    """The longest expression that begins where the tokens begin.

    Args:
        through_words: Whether words between a number and an operator are units inside it, or its end.

    Raises:
        Unreadable: There is none, or what stands behind it belongs to it: '12x', '12 + y', '2(3 + 4)', '2^3'.
    """
    taken: list[Token] = []
    depth, wants_operand, index = 0, True, 0
    while index < len(found):
        token = found[index]
        if wants_operand and token.kind in ("number", "left"):
            depth += token.kind == "left"
            wants_operand = token.kind == "left"
        elif wants_operand and token.kind == "operator" and token.text == "-" and (not taken or taken[-1].text != "-"):
            pass
        elif not wants_operand and token.kind == "right" and depth:
            depth -= 1
        elif not wants_operand and token.kind == "operator" and _leads_on(found, index, through_words):
            wants_operand = True
        elif wants_operand or token.kind != "percent":
            after_units = _after_units(found, index) if through_words and not wants_operand else index
            if after_units == index or not _leads_on(found, after_units, through_words):
                break
            index = after_units
            continue
        taken.append(token)
        index += 1
    if not taken or depth or wants_operand or (index < len(found) and _belongs(taken[-1], found, index)):
        raise Unreadable
    return taken


def _after_units(found: list[Token], index: int) -> int:
    end = index
    if index < len(found) and _is_variable(found[index - 1], found[index]):
        return index
    while end < len(found) and end < index + MAX_UNIT_WORDS and found[end].kind == "word":
        end += 1
    return end


def _leads_on(found: list[Token], index: int, through_words: bool) -> bool:
    """Whether an operator with an operand after it stands here."""
    if index + 1 >= len(found) or found[index].kind != "operator" or (found[index].spelled and not through_words):
        return False
    after = found[index + 1]
    if after.text == "-" and index + 2 < len(found) and after.end == found[index + 2].start:
        return found[index + 2].kind in ("number", "left")
    return after.kind in ("number", "left")


def _belongs(last: Token, found: list[Token], index: int) -> bool:
    """Whether the token behind a claim belongs to it in a way that we do not read."""
    outside = found[index]
    after = found[index + 1] if index + 1 < len(found) else None
    touches = outside.start == last.end
    if outside.kind == "poison":
        return True
    if outside.kind == "word":  # "48g" is a quantity, "12x" algebra
        is_letter = _is_letter(outside) and (touches or outside.text not in ("a", "A", "I"))
        return outside.text.lower() in REMAINDER or is_letter
    if outside.kind == "number":
        return touches or _are_groups(last, outside) or _is_fraction(outside)
    if outside.kind == "left":  # 24(个) is a remark, 2(3 + 4) a product
        return touches and (after is None or after.kind != "word" or _is_letter(after))
    if outside.kind == "operator" and after is not None and after.kind == "word":
        # "12 - so he has 12" is a dash and "12/day" a unit; "12 + y" and "24/Y" are algebra.
        return outside.text in "+*" or _is_letter(after)
    return False

"""How one operation is written out so that a small model can follow it: every hard sum becomes sums of single digits.

An operation is one chain of equal expressions on one line, the operation first and its result last:

    47 + 38 = 40 + 30 + 7 + 8 = 70 + 15 = 85          by places
    73 - 48 = 60 - 40 + 13 - 8 = 20 + 5 = 25          by places, the borrowed ten already moved
    47 * 6 = 40 * 6 + 7 * 6 = 240 + 42 = 282          the places of one factor times those of the other
    282 / 6 = 240 / 6 + 42 / 6 = 40 + 7 = 47          the dividend cut where the quotient has its places

What is known by heart is not taken apart: the sums of two numbers up to 10, the differences that undo them, the tables
up to 10. All else follows one rule, so that there is little to know and nothing to decide. Everything is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

KNOWN = 10
"""Two numbers up to this, their sum or product, and what undoes it, are one fact, not a calculation."""


@dataclass(frozen=True)
class Step:
    """One operation of a program and its exact result."""

    left: Fraction
    operator: str
    """+ - * / or max or min."""
    right: Fraction
    result: Fraction

    def row(self) -> list[str]:
        """[left, operator, right, result] as they are written; safe in JSON."""
        return [written(self.left), self.operator, written(self.right), written(self.result)]


def apply(left: Fraction, operator: str, right: Fraction) -> Fraction:
    """The exact value of one operation."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if operator == "/":
        return left / right
    assert operator in ("max", "min"), operator
    return max(left, right) if operator == "max" else min(left, right)


def step(left: Fraction | int, operator: str, right: Fraction | int) -> Step:
    """The step with its result worked out."""
    first = left if isinstance(left, Fraction) else Fraction(left)
    second = right if isinstance(right, Fraction) else Fraction(right)
    return Step(first, operator, second, apply(first, operator, second))


def written(value: Fraction | int, places: int = 0) -> str:
    """A decimal with as many places as it needs, and at least `places`: 7, 3.5, 3.50.

    `value` has to be a finite decimal of at most six places.
    """
    if value.denominator == 1 and not places:
        return str(value.numerator)
    scaled = Fraction(value) * 10**6
    assert scaled.denominator == 1, value
    digits = f"{abs(int(scaled)):07d}"
    decimals = digits[-6:].rstrip("0").ljust(places, "0")
    sign = "-" if scaled < 0 else ""
    return f"{sign}{digits[:-6]}.{decimals}" if decimals else f"{sign}{digits[:-6]}"


def worked(one: Step) -> str:
    """The line of a step: whole numbers are taken apart by places, decimals are lined up."""
    if all(value.denominator == 1 and value >= 0 for value in (one.left, one.right, one.result)):
        middle = _taken_apart(int(one.left), one.operator, int(one.right), int(one.result))
        places = 0
    else:
        middle = []
        places = max(_decimal_places(one.left), _decimal_places(one.right)) if one.operator in "+-" else 0
    asked = f"{written(one.left, places)} {one.operator} {written(one.right, places)}"
    return " = ".join(_without_repeats([asked, *middle, written(one.result, places)]))


def _decimal_places(value: Fraction) -> int:
    return len(written(value).partition(".")[2])


def _without_repeats(expressions: list[str]) -> list[str]:
    """Nothing is said twice in a row, and a product with 0 has no places to speak of."""
    said = [text for text in expressions if text]
    return [text for index, text in enumerate(said) if index == 0 or text != said[index - 1]]


def _taken_apart(left: int, operator: str, right: int, result: int) -> list[str]:
    """The expressions between the operation and its result."""
    if operator == "+":
        return [] if max(left, right) <= KNOWN else _sum_by_places(left, right)
    if operator == "-":
        return [] if max(right, result) <= KNOWN else _difference_by_places(left, right)
    if operator == "*":
        return [] if max(left, right) <= KNOWN else _product_by_places(left, right)
    if operator == "/":
        return [] if max(right, result) <= KNOWN else _quotient_by_places(right, result)
    return []


def place_values(number: int) -> list[int]:
    """What each digit other than 0 stands for, the largest first: 407 is [400, 7]."""
    digits = str(number)
    values = [int(digit) * 10 ** (len(digits) - 1 - index) for index, digit in enumerate(digits)]
    return [value for value in values if value]


def _added_up(terms: list[int]) -> list[str]:
    """[700, 110, 15] as '700 + 110 + 15', '810 + 15': one term less each time; the last sum is the caller's."""
    expressions = []
    while len(terms) > 1:
        expressions.append(" + ".join(map(str, terms)))
        terms = [terms[0] + terms[1], *terms[2:]]
    return expressions


def _sum_by_places(left: int, right: int) -> list[str]:
    pieces = sorted(place_values(left) + place_values(right), key=lambda value: -len(str(value)))
    by_place: dict[int, int] = {}
    for piece in pieces:
        by_place[len(str(piece))] = by_place.get(len(str(piece)), 0) + piece
    return [" + ".join(map(str, pieces)), *_added_up(list(by_place.values()))]


def _difference_by_places(left: int, right: int) -> list[str]:
    pieces: list[str] = []
    differences: list[int] = []
    borrowed = 0
    unit = 1
    while left or right:
        above, below = left % 10 - borrowed, right % 10
        borrowed = int(above < below)
        above += 10 * borrowed
        if above or below:
            pieces.insert(0, f"{above * unit} - {below * unit}" if below else str(above * unit))
        if above > below:
            differences.insert(0, (above - below) * unit)
        left, right, unit = left // 10, right // 10, unit * 10
    return [" + ".join(pieces), *_added_up(differences)]


def _product_by_places(left: int, right: int) -> list[str]:
    pairs = [(a, b) for b in place_values(right) for a in place_values(left)]
    return [" + ".join(f"{a} * {b}" for a, b in pairs), *_added_up([a * b for a, b in pairs])]


def _quotient_by_places(divisor: int, quotient: int) -> list[str]:
    parts = place_values(quotient)
    return [" + ".join(f"{part * divisor} / {divisor}" for part in parts), *_added_up(parts)]

"""The checker: reads the answer that a completion gives, compares it with the reference, and says what it saw.

Model text is data. It is never evaluated, only matched, within budgets, so that hostile text costs milliseconds.

    verify(completion, reference)    the strict reading: the last final-answer line or box. This is what rewards use.
    flexible(completion, reference)  the last number anywhere: shown beside the strict score, never rewarded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from thinkling.core.errors import ConfigError, DataError
from thinkling.core.shelf import closest
from thinkling.data.types import Verdict, VerdictStatus
from thinkling.verify.equations import Equation, equations
from thinkling.verify.extract import Extraction, final_answer, last_number
from thinkling.verify.number import ParsedNumber, Reading, parse_number, read_number, same_number
from thinkling.verify.words import normal_words, same_words

__all__ = [
    "Equation",
    "Extraction",
    "ParsedNumber",
    "Reading",
    "compare",
    "equations",
    "final_answer",
    "flexible",
    "last_number",
    "parse_number",
    "read_number",
    "verify",
]


def verify(completion: str, reference: str, *, kind: str = "number", finish_reason: str = "stop") -> Verdict:
    """Whether the completion's final answer is the reference.

    Args:
        reference: The right answer alone, such as "18", "3/4", "25%" or "yes".
        kind: "number" or "text".
        finish_reason: As the engine gives it; at "length" an answer that touches the cut is not read.

    Raises:
        ConfigError: An unknown kind.
        DataError: A reference that cannot be read as its kind. A malformed *completion* never raises.

    Example:
        >>> verify("16 - 7 = 9, and 9 * 2 = 18.\\n#### 18", "18").status
        'right'
    """
    _check(reference, kind)
    found = final_answer(completion, finish_reason=finish_reason)
    if found.text is None:
        assert found.status != "read", found
        return Verdict(0.0, found.status, None, found.reason, found.flags)
    verdict = KINDS[kind](found.text, reference)
    flags: tuple[str, ...] = (*found.flags, *verdict.flags)
    if any(_differs(earlier, found.text, kind) for earlier in found.earlier):
        flags += ("changed_mind",)
    return Verdict(verdict.score, verdict.status, verdict.extracted, verdict.reason, tuple(dict.fromkeys(flags)))


def compare(answer: str, reference: str, *, kind: str = "number") -> Verdict:
    """Whether an answer that was already cut out is the reference. Raises as `verify` does."""
    _check(reference, kind)
    return KINDS[kind](answer, reference)


def flexible(completion: str, reference: str, *, kind: str = "number") -> Verdict:
    """The generous reading: the last number of the completion, or for text its last line that is not empty."""
    _check(reference, kind)
    lines = completion[-4000:].strip().splitlines()
    answer = last_number(completion) if kind == "number" else (lines[-1] if lines else None)
    if answer is None:
        return Verdict(0.0, "no_answer", None, "nothing to read")
    return compare(answer, reference, kind=kind)


def _number(answer: str, reference: str) -> Verdict:
    given, wanted = read_number(answer), read_number(reference)
    assert wanted.number is not None, reference
    if given.number is None:
        status: VerdictStatus = "wrong" if "several_answers" in given.flags else "unparsable"
        return Verdict(0.0, status, answer, given.reason, given.flags)
    same, flags, reason = same_number(given.number, wanted.number)
    flags = (*given.flags, *flags)
    if same and wanted.unit:
        if given.unit and not _same_unit(given.unit, wanted.unit):
            return Verdict(
                0.0, "wrong", answer, f"the number is right, but the unit is {given.unit}, not {wanted.unit}", flags
            )
        flags = tuple(flag for flag in flags if flag != "unit_unchecked")
        flags += () if given.unit else ("unit_missing",)
    if same:
        return Verdict(1.0, "right", answer, reason, flags)
    return Verdict(0.0, "wrong", answer, f"{reason}: want {reference}", flags)


def _text(answer: str, reference: str) -> Verdict:
    words = normal_words(answer)
    if not words:
        return Verdict(0.0, "unparsable", answer[:80], "no words" if words == "" else "too long for an answer")
    if same_words(answer, reference):
        return Verdict(1.0, "right", answer, "equal")
    return Verdict(0.0, "wrong", answer, f"want {reference}")


def _same_unit(given: str, wanted: str) -> bool:
    """Equal up to a plural s. Units are not converted: 500 cm is not read as 5 m."""
    return given == wanted or given.removesuffix("s") == wanted.removesuffix("s")


def _differs(earlier: str, answer: str, kind: str) -> bool:
    if kind == "text":
        return bool(normal_words(earlier)) and not same_words(earlier, answer) and not same_words(answer, earlier)
    before, after = read_number(earlier).number, read_number(answer).number
    return before is not None and after is not None and before.value != after.value


KINDS: dict[str, Callable[[str, str], Verdict]] = {"number": _number, "text": _text}


@lru_cache(maxsize=4096)
def _check(reference: str, kind: str) -> None:
    """At the door: a reference that cannot be read is an error of the data, never a wrong answer."""
    if kind not in KINDS:
        known = sorted(KINDS)
        raise ConfigError(
            f"there is no answer kind '{kind}'",
            where=f"kinds: {', '.join(known)}",
            fix=closest(kind, known) or "use one of these",
        )
    readable = read_number(reference).number is not None if kind == "number" else bool(normal_words(reference))
    if not readable:
        raise DataError(
            f"the reference answer {reference[:80]!r} cannot be read as a {kind}",
            where="the problem's answer",
            fix="give the answer alone, such as 18 or 3/4; for words, a task of your own with VERIFIER = 'text'",
        )

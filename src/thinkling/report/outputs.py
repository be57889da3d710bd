"""Model text on the page: shown as it was written, with each false equation marked and nothing in it able to act.

All of it is escaped and cut to what a reader still reads; characters that hide or turn text around are shown by their
code. A mark is a wavy underline *and* a small tag with the right value, so that it does not hang on seeing red.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from thinkling.report.speech import Speaker

LIMIT = 1400
"""Characters of one output that are shown: what a reader still reads. The rest is counted."""
LINES = 40
"""Lines of one output that are shown: a model that only writes line ends would fill many screens."""
# C0 and C1 controls (but not tab and newline), soft hyphens, direction marks and overrides, invisible joiners, letters
# without a picture, halves of a pair, tags. Not the two selectors that only colour an emoji.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


def visible(text: str) -> str:
    """`text` with characters that cannot be seen, or that change what is seen, written as their code."""
    return HIDDEN.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)


def marked(completion: str, equations: Sequence[Mapping[str, Any]], say: Speaker, limit: int = LIMIT) -> Markup:
    """A completion as HTML, its false equations marked with their right values, cut after `limit` characters."""
    whole = completion.rstrip()
    end = _end(whole, limit)
    parts = list(_pieces(whole[:end], equations, say)) or [
        Markup('<span class="soft">{}</span>').format(say("(nothing)"))
    ]
    if len(whole) > end:
        parts.append(_rest(len(whole) - end, sum(_is_false(e) and e["start"] >= end for e in equations), say))
    return Markup("").join(parts)


def clipped(text: str, say: Speaker, limit: int = LIMIT) -> Markup:
    """Any other text of a file as HTML, cut after `limit` characters, the rest counted."""
    end = _end(text, limit)
    rest = say(" … {n} more characters", n=f"{len(text) - end:,}") if len(text) > end else ""
    return Markup("{}{}").format(visible(text[:end]), rest)


def _end(text: str, limit: int) -> int:
    """Where to cut: after `limit` characters or LINES lines, whichever comes first."""
    return min(limit, len("\n".join(text[:limit].split("\n", LINES)[:LINES])), len(text))


def _pieces(text: str, equations: Sequence[Mapping[str, Any]], say: Speaker) -> Iterator[Markup]:
    position = 0
    for equation in sorted((e for e in equations if _is_false(e)), key=lambda e: (e["start"], e["end"])):
        # The links of a chain (2 + 3 = 6 + 1 = 7) share text: the second mark begins where the first ended.
        start, end = max(position, int(equation["start"])), min(len(text), int(equation["end"]))
        if start >= end:
            continue
        yield escape(visible(text[position:start]))
        yield _mark(text[start:end], equation.get("actual"), say)
        position = end
    if text[position:]:
        yield escape(visible(text[position:]))


def _mark(text: str, actual: object, say: Speaker) -> Markup:
    value = say.plain("undefined") if actual is None else _short(str(actual))
    explanation = "this equation is false; its right value is {value}"
    return Markup(
        '<span class="false" title="{title}">{text}</span>'
        '<span class="fix"><span class="unseen">({spoken})</span><span aria-hidden="true">✗ {value}</span></span>'
    ).format(
        title=say.plain(explanation, value=value), text=visible(text), spoken=say(explanation, value=value), value=value
    )


def _rest(characters: int, false_equations: int, say: Speaker) -> Markup:
    text = say(
        "… {n} more characters, {false} more false equations in them", n=f"{characters:,}", false=false_equations
    )
    return Markup('<span class="rest">{}</span>').format(text)


def _is_false(equation: Mapping[str, Any]) -> bool:
    return equation["is_true"] is False


def _short(value: str) -> str:
    return value if len(value) <= 24 else value[:21] + "…"

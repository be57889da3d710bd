"""What a model is trained on, token by token: learnt tokens stand out, and every border between tokens can be seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from thinkling.core.language import tr
from thinkling.data.prepare import Prepared, TokenRow

if TYPE_CHECKING:
    from thinkling.tokenizer.tokenizer import Tokenizer

LEARNT = ("black on green", "black on bright_green")
"""Styles of neighbouring learnt tokens, so that each can be told from the next."""
READ = ("dim", "none")


def pieces(tokenizer: Tokenizer, row: TokenRow) -> Iterator[tuple[str, bool]]:
    """(text, whether it is learnt); tokens that hold only parts of a character come together until it is whole."""
    held: list[int] = []
    learnt = False
    for token, weight in zip(row.tokens, row.weights, strict=True):
        if held and learnt != (weight != 0):
            yield tokenizer.decode(held, skip_special=False), learnt
            held = []
        learnt = weight != 0
        held.append(token)
        text = tokenizer.decode(held, skip_special=False)
        if not text.endswith("\ufffd"):
            yield text, learnt
            held = []
    if held:
        yield tokenizer.decode(held, skip_special=False), learnt


def marked(tokenizer: Tokenizer, row: TokenRow) -> Text:
    """The row in colour: green is learnt."""
    shown = Text()
    for number, (text, learnt) in enumerate(pieces(tokenizer, row)):
        shown.append(_visible(text), style=(LEARNT if learnt else READ)[number % 2])
    return shown


def plain(tokenizer: Tokenizer, row: TokenRow) -> str:
    """The row without colour: bars between tokens, what is learnt between ⟦ and ⟧."""
    shown, inside = "", False
    for text, learnt in pieces(tokenizer, row):
        border = "⟦" if learnt and not inside else "⟧" if inside and not learnt else "|" if shown else ""
        shown, inside = shown + border + _visible(text), learnt
    return shown + ("⟧" if inside else "")


def _visible(text: str) -> str:
    """Line ends shown where they are, and other control characters that would move the cursor made harmless."""
    shown = text.replace("\n", "↵\n").replace("\t", "⇥")
    return "".join(c if c == "\n" or c.isprintable() else f"\\x{ord(c):02x}" for c in shown)


def account(prepared: Prepared) -> list[str]:
    """Rows, tokens and what was lost, in words."""
    report = prepared.report
    share = tr("{x} of all tokens are learnt", x=f"{report.supervised_tokens / report.tokens:.0%}")
    return [*report.lines(), share]

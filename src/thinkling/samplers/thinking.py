"""A budget for thought: at N tokens its closing tag is forced; or a closing tag becomes a "Wait", up to k times.

Budget forcing of Muennighoff et al. 2025 (s1), section 3.1 (arXiv:2501.19393): forcing the end makes a model answer
with the thought that it has, and a wait in place of the end makes it look at its thought again. Forced tokens are told
in `Completion.forced`: the model did not choose them. A wait can only stand for a tag of one token, since the first
tokens of a longer one are written before it is known to be the tag.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

CHOOSES = "tokens"


class Thinking:
    """The machine: it counts the tokens of a completion up to the closing tag."""

    def __init__(
        self,
        close: Sequence[int],
        closes: Callable[[Sequence[int]], bool],
        budget: int,
        wait: Sequence[int],
        waits: int,
    ) -> None:
        self.close, self.closes, self.budget = tuple(close), closes, budget
        self.wait, self.waits = tuple(wait), waits
        self.tokens: list[int] = []
        self.forced: list[int] = []
        """What has to come next, in order."""
        self.is_closed = False

    def allowed(self) -> tuple[int, ...] | None:
        """The one token that is forced; None where all may come."""
        if not self.forced and not self.is_closed and 0 < self.budget <= len(self.tokens):
            self.forced = list(self.close[self._begun() :])
        return (self.forced[0],) if self.forced else None

    def _begun(self) -> int:
        """How many tokens of the closing tag stand at the end already, fewer than all."""
        longest = min(len(self.close) - 1, len(self.tokens))
        return next((n for n in range(longest, 0, -1) if tuple(self.tokens[-n:]) == self.close[:n]), 0)

    def take(self, token: int) -> int:
        """Note a token; the first one of the wait in place of a closing tag, while there are waits left."""
        if self.forced:
            wanted = self.forced.pop(0)
            assert token == wanted, (token, wanted)
        elif (token,) == self.close and self.waits and not self.is_closed:
            self.waits -= 1
            token, *self.forced = self.wait
        self.tokens.append(token)
        self.is_closed = self.is_closed or (not self.forced and self.closes(self.tokens))
        return token


def machine(
    *,
    close: Sequence[int],
    closes: Callable[[Sequence[int]], bool],
    budget: int = 0,
    wait: Sequence[int] = (),
    waits: int = 0,
) -> Thinking:
    """A machine for one completion.

    Args:
        close: The closing tag in tokens.
        closes: Whether the text of these tokens, a completion so far, holds the closing tag.
        budget: Tokens of thought after which the tag is forced; 0: no limit.
        wait: What is written in place of a closing tag, in tokens.
        waits: How many times.
    """
    return Thinking(close, closes, budget, wait, waits)

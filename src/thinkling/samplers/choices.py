"""Constrained choice: the completion is one of given texts, whatever the model would rather say.

The texts, in tokens, form a trie; what may come next are the children of the node that was reached, and the end of the
completion where a text ends. Between two tokens of a text the model is renormalised, so that a text that begins well
and ends badly may win; what each text as a whole is worth says the entry `label_ranking`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CHOOSES = "tokens"
END = -1
"""The key of a node at which a text ends; no token has this number."""


class Choices:
    """The machine: made of the tokens of each text, and of the tokens that end a completion."""

    def __init__(self, texts: Sequence[Sequence[int]], ends: Sequence[int]) -> None:
        self.ends = tuple(ends)
        self.node: dict[int, Any] = {}
        for text in texts:
            node = self.node
            for token in text:
                node = node.setdefault(token, {})
            node[END] = {}

    def allowed(self) -> tuple[int, ...]:
        """The tokens that may come; the ends, once a text is whole."""
        following = tuple(token for token in self.node if token != END)
        return following + self.ends if END in self.node or not following else following

    def take(self, token: int) -> int:
        """Go down one token."""
        self.node = self.node.get(token, {})
        return token


def machine(texts: Sequence[Sequence[int]], ends: Sequence[int]) -> Choices:
    """A machine for one completion.

    Args:
        texts: Tokens of each, none of them empty.
        ends: Tokens that end a completion; they are in no text.
    """
    return Choices(texts, ends)

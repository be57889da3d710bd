"""Self-consistency: the answer that most completions of one prompt agree on.

Wang et al. 2023, section 2 (arXiv:2203.11171), the unweighted majority. Completions without an answer abstain; they are
counted and decide nothing. A tie is told, and goes to the answer that was given first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CHOOSES = "sequences"


@dataclass(frozen=True)
class Vote:
    """What a vote came to."""

    answer: str | None
    """The winner; None where all abstained."""
    votes: Mapping[str, int]
    """Of each answer, in the order in which they were first given."""
    abstentions: int
    """Completions without an answer."""
    tied: tuple[str, ...]
    """All answers with as many votes as the winner, where there are several; else empty."""

    @property
    def agreement(self) -> float:
        """The winner's share of all completions, abstentions among them: 0 to 1."""
        n = sum(self.votes.values()) + self.abstentions
        return self.votes[self.answer] / n if self.answer is not None else 0.0


def vote(answers: Sequence[str | None]) -> Vote:
    """The majority of the answers, each as a checker extracted it; None abstains."""
    votes = dict(Counter(answer for answer in answers if answer is not None))  # in the order of first votes
    most = max(votes.values(), default=0)
    leading = tuple(answer for answer, n in votes.items() if n == most)
    abstentions = sum(answer is None for answer in answers)
    return Vote(leading[0] if leading else None, votes, abstentions, leading if len(leading) > 1 else ())

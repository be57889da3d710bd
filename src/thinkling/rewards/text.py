"""Right when the final answer is the reference in words: yes, a name, an option letter, an order such as 3 < 5 < 7."""

from __future__ import annotations

from thinkling.data.types import Verdict
from thinkling.verify import verify


def score(completion: str, reference: str, *, finish_reason: str = "stop") -> Verdict:
    """1.0 for the same words in a final-answer line or box, else 0.0 with the reason.

    Example:
        >>> score("Both are prime.\\nAnswer: **Yes**, because ...", "yes").score
        1.0
    """
    return verify(completion, reference, kind="text", finish_reason=finish_reason)

"""Right when the final answer is the reference number: 18, 18.0, 1,200, 3/4, ½, 25%, １２, 十二."""

from __future__ import annotations

from thinkling.data.types import Verdict
from thinkling.verify import verify


def score(completion: str, reference: str, *, finish_reason: str = "stop") -> Verdict:
    """1.0 for the right number in a final-answer line or box, else 0.0 with the reason.

    Example:
        >>> score("9 * 8 = 72\\n#### 72.0", "72").score
        1.0
    """
    return verify(completion, reference, kind="number", finish_reason=finish_reason)

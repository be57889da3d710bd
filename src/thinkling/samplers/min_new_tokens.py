"""At least so many tokens: until then no token can be chosen that would end the completion.

A stop text still ends it: text is not chosen token by token.
"""

from __future__ import annotations

from thinkling.core.language import tr

IDLE = 0


def problem(value: int) -> str | None:
    """Why this cannot be a number of tokens."""
    return None if value >= 0 and value == int(value) else tr("a whole number of tokens, 0 or more")


def forbids_end(place: int, value: int) -> bool:
    """Whether the token number `place`, from 0, must not end the completion."""
    return place < value

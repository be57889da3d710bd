"""Randomness that can be had again: every seed is a hash of what it is for, never of when it was asked for."""

from __future__ import annotations

import hashlib
import random


def seed_from(*parts: object) -> int:
    """A 63-bit seed that depends on every part and on their order.

    Parts are written with `repr`, so that ("ab", "c") and ("a", "bc") differ. Two different lists of parts share a seed
    with probability 2^-63 (SHA-256, first eight bytes).
    """
    text = "\x1f".join(repr(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: object) -> random.Random:
    """A stream of its own for these parts."""
    return random.Random(seed_from(*parts))

"""The order of rows as a function that is computed, not a list that is kept: any place of any epoch can be asked alone.

A keyed permutation of 0 ... n - 1 takes the place of a shuffled list: a Feistel network permutes the numbers of 2h bits
(Luby and Rackoff 1988, SIAM J. Comput. 17:373), and whoever lands outside 0 ... n - 1 is sent on until he lands inside
(cycle walking, Black and Rogaway 2002, CT-RSA, section 3). Fifty million rows cost the memory of the few asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thinkling.core.rng import seed_from

ROUNDS = 8
"""Four suffice for random round functions; small domains want more."""
FEW = 4096
"""So few numbers are put in order by sorting what the network makes of them: cycles would be long in so small a part of
the domain, and a network over very few bits reaches only a part of all orders."""
HALF_BITS_OF_FEW = 10

Places = NDArray[np.int64]


class Permutation:
    """The numbers 0 ... n - 1 in an order that depends on the key alone.

    Example:
        >>> sorted(Permutation(5, "rows", 0)[np.arange(5)].tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, n: int, *key: object) -> None:
        """`key` may be anything whose `repr` says what it is: a purpose, a seed, an epoch."""
        assert n >= 0, n
        self.n = n
        # No wider than it must be where cycles are walked: a domain of k n numbers takes k steps on the average.
        self._half = np.uint64(HALF_BITS_OF_FEW if n <= FEW else -(-(n - 1).bit_length() // 2))
        self._keys = [np.uint64(seed_from("permutation", *key, number)) for number in range(ROUNDS)]
        self._table = np.argsort(self._once(np.arange(n, dtype=np.uint64))) if n <= FEW else None

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, places: Places) -> Places:
        """What stands at these places: (P,) to (P,), both within 0 ... n - 1."""
        if self._table is not None:
            return self._table[places]
        numbers = self._once(np.asarray(places, dtype=np.uint64))
        outside = np.flatnonzero(numbers >= self.n)
        while len(outside):
            numbers[outside] = self._once(numbers[outside])
            outside = outside[numbers[outside] >= self.n]
        return numbers.astype(np.int64)

    def _once(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """One way through the network: a permutation of all numbers of 2 * half bits."""
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = numbers >> self._half, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << self._half) | right


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the result hangs on every bit: the finaliser of SplitMix64 (Steele et al. 2014, OOPSLA)."""
    with np.errstate(over="ignore"):
        numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))

"""Which sample comes when: a keyed permutation that is computed, not stored.

`shuffled` evaluates a bijection of range(n) at any position in O(1) memory, so a run can start at any sample of any
epoch at no cost and every process can compute its own part. It is a Feistel network (Luby and Rackoff, 1988) on a
domain of a·b ≥ n pairs with cycle walking back into range(n) (Black and Rogaway, "Ciphers with Arbitrary Finite
Domains", 2002).
"""

import math

import numpy as np

_ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio, the increment of SplitMix64


def shuffled(position: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The sample at each position of an endless stream of epochs over `n` samples.

    Args:
        position: any shape, integers from 0 on; positions e·n to e·n + n - 1 are epoch e.
        n: number of samples.
        seed: key of the order; each epoch has an order of its own.

    Returns:
        int64 of the same shape, within range(n); each epoch holds every sample exactly once.

    Example::

        >>> sorted(shuffled(np.arange(5), n=5, seed=0).tolist())
        [0, 1, 2, 3, 4]
    """
    assert n >= 1, n
    position = np.asarray(position)
    epoch, offset = np.divmod(position.reshape(-1).astype(np.uint64), np.uint64(n))
    key = _mix(epoch ^ _mix(np.full_like(epoch, seed % 2**64)))
    x = _feistel(offset, key, n)
    while (outside := x >= n).any():
        x[outside] = _feistel(x[outside], key[outside], n)
    return x.astype(np.int64).reshape(position.shape)


def _feistel(x: np.ndarray, key: np.ndarray, n: int) -> np.ndarray:
    """A bijection of range(a·b), a near-square just large enough to hold range(n), under each element's key."""
    a = math.isqrt(n - 1) + 1
    b = np.uint64(-(-n // a))
    left, right = np.divmod(x, b)
    for step in range(0, _ROUNDS, 2):
        left = (left + _mix(right ^ _round_key(key, step))) % np.uint64(a)
        right = (right + _mix(left ^ _round_key(key, step + 1))) % b
    return left * b + right


def _round_key(key: np.ndarray, step: int) -> np.ndarray:
    return _mix(key + np.uint64(_GOLDEN * (step + 1) % 2**64))


def _mix(x: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, 2014); arithmetic wraps around at 2**64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

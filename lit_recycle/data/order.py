"""Which sample comes when: a keyed permutation that is computed, not stored.

`shuffled` evaluates a bijection of range(n) at any position in O(1) memory, so a run can start at any sample of any
epoch at no cost and every process can compute its own part. It is a Feistel network (Luby and Rackoff, 1988) on a
domain of a·b ≥ n pairs with cycle walking back into range(n) (Black and Rogaway, "Ciphers with Arbitrary Finite
Domains", 2002).

With a window, the order is local: stretches of neighbouring samples are shuffled, and then the samples of so many
stretches as fill a window. Only the stretches of one window are read at a time, which is what remote files need.
"""

import math

import numpy as np

STRETCHES = 64
"""Of a window."""
_ROUNDS = 8
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio, the increment of SplitMix64


def shuffled(position: np.ndarray, n: int, seed: int, window: int | None = None) -> np.ndarray:
    """The sample at each position of an endless stream of epochs over `n` samples.

    Args:
        position: any shape, integers from 0 on; positions e·n to e·n + n - 1 are epoch e.
        n: number of samples.
        seed: key of the order; each epoch has an order of its own.
        window: number of consecutive positions that hold the samples of a few stretches, `STRETCHES` of them; None to
            shuffle all samples with each other.

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
    x = _permuted(offset, key, n) if window is None or window >= n else _windowed(offset, key, n, window)
    return x.astype(np.int64).reshape(position.shape)


def _windowed(offset: np.ndarray, key: np.ndarray, n: int, window: int) -> np.ndarray:
    """A bijection of range(n) that takes each window to a few stretches of neighbours.

    The last stretch of all may be shorter than the others; it stays the last in every epoch, so that each other one
    begins at a multiple of the length.
    """
    length = max(window // STRETCHES, 1)
    size = window // length * length
    number, inside = np.divmod(offset, np.uint64(size))
    in_window, last = _mix(key ^ _mix(number)), number == n // size
    inside[~last] = _permuted(inside[~last], in_window[~last], size)
    inside[last] = _permuted(inside[last], in_window[last], n % size)
    stretch, at = np.divmod(number * np.uint64(size) + inside, np.uint64(length))
    whole = stretch < n // length
    stretch[whole] = _permuted(stretch[whole], _mix(key[whole]), n // length)
    return stretch * np.uint64(length) + at


def _permuted(x: np.ndarray, key: np.ndarray, n: int) -> np.ndarray:
    """A bijection of range(n) under each element's key."""
    if n < 2:
        return x
    x = _feistel(x, key, n)
    while (outside := x >= n).any():
        x[outside] = _feistel(x[outside], key[outside], n)
    return x


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

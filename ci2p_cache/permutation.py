"""A permutation that is a function: where each number of a range goes, without an array of all of them.

A Feistel network over two digits, x = left * b + right with left in [0, a), right in [0, b) and a, b about the root of
the range's size: each round adds to one digit a hash of the other and a key. What it sends beyond the range is sent on
until it is inside, which is rare, for a * b is hardly larger. (Black, Rogaway: Ciphers with arbitrary finite domains.)
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 12  # with 8, some permutations of five numbers come more often than others
_HALF = np.uint64(32)
_TWEAK = np.uint64(0xD1342543DE82EF95)


def keys_of(*words: int) -> NDArray[np.uint64]:
    """Keys of the rounds, uint64 [12], drawn from integers: other ones, independent permutations."""
    text = "\t".join(map(str, words)).encode()
    return np.frombuffer(hashlib.shake_128(text).digest(8 * _ROUNDS), "<u8").astype(np.uint64)


def permuted(
    places: NDArray[np.int64],
    sizes: int | NDArray[np.int64],
    keys: NDArray[np.uint64],
    tweaks: int | NDArray[np.int64] = 0,
) -> NDArray[np.int64]:
    """Where each of [n] places, in [0, size), goes: int64 [n] in [0, size). Sizes are below 2**62.

    Sizes and tweaks may differ from place to place. A tweak stands for a key of its own: places of one size and tweak
    are permuted among themselves.
    """
    size_n = np.broadcast_to(np.asarray(sizes, np.uint64), places.shape)
    tweak_n = np.broadcast_to(np.asarray(tweaks, np.int64), places.shape).astype(np.uint64) * _TWEAK
    a_n = np.ceil(np.sqrt(size_n.astype(np.float64))).astype(np.uint64)
    b_n = (size_n + a_n - np.uint64(1)) // a_n
    out = places.astype(np.uint64)
    todo: slice | NDArray[np.int64] = slice(None)
    while True:
        out[todo] = _rounds(out[todo], a_n[todo], b_n[todo], tweak_n[todo], keys)
        todo = np.flatnonzero(out >= size_n)
        if not len(todo):
            return out.astype(np.int64)


def drawn(numbers: NDArray[np.int64], below: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A random integer in [0, below) for each of [n] numbers, int64 [n]; `below` is 2**32 at most."""
    return _scaled(_hashed(numbers.astype(np.uint64) + keys[0]), np.uint64(below)).astype(np.int64)


def _rounds(
    numbers: NDArray[np.uint64],
    a: NDArray[np.uint64],
    b: NDArray[np.uint64],
    tweaks: NDArray[np.uint64],
    keys: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    left: NDArray[np.uint64] = numbers // b
    right: NDArray[np.uint64] = numbers - left * b
    for number, key in enumerate(keys):
        if number % 2:
            right = _sum(right, _scaled(_hashed(left + (tweaks + key)), b), b)
        else:
            left = _sum(left, _scaled(_hashed(right + (tweaks + key)), a), a)
    return left * b + right


def _sum(one: NDArray[np.uint64], other: NDArray[np.uint64], modulus: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Of two numbers below the modulus."""
    both: NDArray[np.uint64] = one + other
    return both - modulus * (both >= modulus)


def _hashed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every bit depends on every bit."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _scaled(numbers: NDArray[np.uint64], below: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """Random numbers of 64 bits to [0, below): as their upper half lies in [0, 2**32)."""
    return ((numbers >> _HALF) * below) >> _HALF

"""Damaged copies of files, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Mutation = Callable[[bytearray, np.random.Generator], None]
NUMBERS = (b"\x00", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00")
TEXTS = ("\r\n", '"', ",", "{", "\u2028", "\x0c", "NaN", "1e999", "[" * 200, "null", "\\u0000", "\ufeff")
PIECES = (*NUMBERS, b"\xc3\x28", *(text.encode() for text in TEXTS))


def mutate(data: bytes, seed: list[int]) -> bytes:
    """Returns the data with one to three damages."""
    rng = np.random.default_rng(seed)
    damaged = bytearray(data)
    for mutation in rng.choice(np.array(MUTATIONS, dtype=object), rng.integers(1, 4)):
        if damaged:
            mutation(damaged, rng)
    return bytes(damaged)


def _place(data: bytearray, rng: np.random.Generator) -> int:
    """Returns a place in the data, often near an end, where headers and indices are."""
    length = len(data) if rng.random() < 0.5 else max(1, min(len(data), 600))
    place = int(rng.integers(length))
    return place if rng.random() < 0.7 else len(data) - 1 - place


def _flip_bits(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(1, 16)):
        data[_place(data, rng)] ^= 1 << rng.integers(8)


def _random_bytes(data: bytearray, rng: np.random.Generator) -> None:
    place = _place(data, rng)
    data[place : place + 16] = rng.bytes(int(rng.integers(1, 16)))


def _cut(data: bytearray, rng: np.random.Generator) -> None:
    del data[_place(data, rng) :]


def _drop(data: bytearray, rng: np.random.Generator) -> None:
    place = _place(data, rng)
    del data[place : place + int(rng.integers(1, 400))]


def _blank(data: bytearray, rng: np.random.Generator) -> None:
    place = _place(data, rng)
    length = min(len(data) - place, int(rng.integers(1, 400)))
    data[place : place + length] = bytes(length)


def _repeat(data: bytearray, rng: np.random.Generator) -> None:
    first, second = _place(data, rng), _place(data, rng)
    data[second:second] = data[first : first + int(rng.integers(1, 400))]


def _insert(data: bytearray, rng: np.random.Generator) -> None:
    place = _place(data, rng)
    piece = PIECES[rng.integers(len(PIECES))]
    if rng.random() < 0.5:
        data[place:place] = piece
    else:
        data[place : place + len(piece)] = piece


MUTATIONS: tuple[Mutation, ...] = (_flip_bits, _random_bytes, _cut, _drop, _blank, _repeat, _insert)

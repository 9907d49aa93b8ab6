"""Mutations that know what they change: numbers of a binary file and values of a JSON tree, with a random generator given."""

from __future__ import annotations

import copy
import json
import struct
from random import Random
from typing import Any

EXTREMES = [0, 1, 2, 3, 7, 8, 31, 32, 255, 256, 65535, 65536]
EXTREMES += [2**power + step for power in (31, 32, 40, 53, 62, 63, 64) for step in (-1, 0, 1)]
NUMBERS: list[Any] = [
    *EXTREMES,
    -1,
    -(2**31),
    -(2**63),
    0.0,
    -0.0,
    0.5,
    1e-300,
    1e30,
    1e300,
    float("nan"),
    float("inf"),
    -float("inf"),
    10**400,
]
TEXTS = [
    "",
    "a",
    "\0",
    "ÿ",
    "\ud800",
    "<0x-1>",
    "<|end|>",
    "▁",
    " ",
    "../x",
    "/etc/passwd",
    "{{ x.__class__ }}",
    "(a+)+$",
    "[",
    "x" * 70000,
]
ALPHABET = b'\x00\x01\x7f\x80\xff{}[]",:0-9eE.\\u'


def mutate_bytes(data: bytes, numbers: list[tuple[int, str]], random: Random) -> bytes:
    """One to four changes: numbers to boundary values, bits, truncations, splices, repeats, noise."""
    out = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        kind = random.random()
        if kind < 0.5 and numbers:
            place, code = random.choice(numbers)
            _set_number(out, place, code, random)
        elif kind < 0.7 and out:
            place = random.randrange(min(len(out), random.choice([64, 4096, len(out)])))
            out[place] ^= 1 << random.randrange(8)
        elif kind < 0.78:
            del out[random.randrange(len(out) + 1) :]
        elif kind < 0.86 and out:
            begin, length = random.randrange(len(out)), random.choice([1, 4, 8, 100])
            del out[begin : begin + length]
        elif kind < 0.93 and out:
            begin, length, to = random.randrange(len(out)), random.choice([1, 8, 64, 1000]), random.randrange(len(out))
            out[to:to] = out[begin : begin + length]
        else:
            begin = random.randrange(len(out) + 1)
            noise = random.randbytes(random.choice([1, 8, 64]))
            out[begin : begin + len(noise)] = noise
    return bytes(out)


def mutate_payload(data: bytes, begin: int, random: Random) -> bytes:
    """Weights of a damaged file: from `begin` on, up to a hundred places of noise, NaN, infinities and largest values."""
    out = bytearray(data)
    extremes = [
        b"\x00\x7c",
        b"\x00\xfc",
        b"\x00\x7e",
        b"\xff\x7b",
        b"\x01\x00",
        b"\xff" * 4,
        b"\x00\x00\x80\x7f",
        b"\x80\x7f",
        b"\x80" * 16,
    ]
    for _ in range(random.choice([1, 10, 100])):
        place = random.randrange(begin, len(out))
        piece = random.choice([*extremes, random.randbytes(8)])[: len(out) - place]
        out[place : place + len(piece)] = piece
    return bytes(out)


def _set_number(out: bytearray, place: int, code: str, random: Random) -> None:
    size = struct.calcsize(code)
    if place + size > len(out):
        return
    if code in "fd":
        value: float = random.choice([0.0, -1.0, 1.0, 1e-38, 1e38, float("nan"), float("inf"), -float("inf"), random.uniform(-1e4, 1e4)])
        struct.pack_into("<" + code, out, place, value)
        return
    old = int.from_bytes(out[place : place + size], "little")
    new = random.choice([*EXTREMES, old + 1, old - 1, old * 2, old // 2, old ^ 1 << random.randrange(8 * size), random.randrange(50), -1])
    out[place : place + size] = (new % 2 ** (8 * size)).to_bytes(size, "little")


def mutate_json(tree: Any, random: Random) -> bytes:
    """The tree with one to three values changed, removed, repeated or nested; now and then bytes of its text changed."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice([1, 1, 2, 3])):
        _change(tree, random)
    text = json.dumps(tree).encode("utf-8", "surrogatepass")
    if random.random() < 0.15:
        text = mutate_bytes(text, [], random)
    if random.random() < 0.05:
        place = random.randrange(len(text))
        text = text[:place] + random.choice([b"[" * 100_000, b'{"a":' * 5000, bytes([random.choice(ALPHABET)]) * 9]) + text[place:]
    return text


def _change(tree: Any, random: Random) -> None:
    """Changes one place of a tree of dicts and lists: shallow ones are as likely as deep ones."""
    holder = tree
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        if not keys:
            return
        key = random.choice(keys)
        if isinstance(holder[key], (dict, list)) and holder[key] and random.random() < 0.8:
            holder = holder[key]
            continue
        break
    kind = random.random()
    if kind < 0.15:
        del holder[key]
    elif kind < 0.25 and isinstance(holder, dict):
        holder[random.choice([*TEXTS[:-1], *holder])] = holder.pop(key)
    elif kind < 0.3 and isinstance(holder, list):
        holder += [copy.deepcopy(holder[key])] * random.choice([1, 3, 1000])
    else:
        holder[key] = _other(holder[key], random)


def _other(value: Any, random: Random) -> Any:
    if isinstance(value, bool) and random.random() < 0.5:
        return not value
    if isinstance(value, (int, float)) and random.random() < 0.8:
        return random.choice([*NUMBERS, value + 1, value - 1, value * 2, -value])
    if isinstance(value, str) and random.random() < 0.6:
        return random.choice([*TEXTS, value + "x", value[:-1], value * 2, value.upper()])
    return random.choice([None, True, False, 0, -1, 1.5, "", "x", [], {}, [value], {"a": value}, [[]] * 5, random.choice(NUMBERS)])

"""Damages real inputs: bytes flipped, cut, doubled, and what breaks parsers put in their place."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

NUMBERS = [
    b"nan",
    b"NaN",
    b"inf",
    b"-inf",
    b"Infinity",
    b"1e39",
    b"1e999",
    b"-1",
    b"-0.0",
    b"0",
    b"1_0",
    b"0x10",
    b"1.5",
]
BYTES = [b"\xff", b"\0", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r", b"\n", b"\t", b" ", b"\xe2\x80\xa8", "é猫".encode()]
LONG = [b"9" * 40, b"9" * 5000, b"x" * 5000, b"[" * 3000, b"{" * 3000, b'{"a":' * 3000, b"-" * 3000, b"(" * 300]
WORDS = [b"null", b"true", b"[]", b"{}", b'""', b"'", b'"', b"\\", b"|", b"<script>", b"$x_{$", b"../", b"/dev/zero"]
NASTY = [*NUMBERS, *BYTES, *LONG, *WORDS, b": ", b"- ", b"#", b","]


ODD = (
    None,
    True,
    -1,
    0,
    10**400,
    1.5,
    float("nan"),
    float("-inf"),
    "",
    "x",
    "\0",
    "$x_{$",
    "9" * 400,
    [],
    [[]],
    {},
    {"a": 1},
)


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return ``data`` with one to four damages; half of the JSON texts stay JSON, with other values in them."""
    if data[:1] == b"{" and chance.random() < 0.5:
        try:
            content = json.loads(data)
        except ValueError:
            pass
        else:
            return json.dumps(_other(content, chance)).encode()
    out = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(out) + 1)
        to = min(len(out), at + chance.choice((0, 1, 1, 2, 4, 8, 64)))
        kind = chance.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            out[at:to] = b""
        elif kind == 2:
            out[at:to] = chance.choice(NASTY)
        elif kind == 3:
            out[at:at] = out[at:to] * chance.choice((1, 2, 50))
        elif kind == 4:
            out[at:to] = bytes(chance.randrange(256) for _ in range(to - at))
        elif kind == 5:
            del out[at:]
        else:
            _replace_number(out, chance)
    return bytes(out)


def _other(content: Any, chance: random.Random) -> Any:
    """A JSON value with one or two of its parts replaced, removed or doubled."""
    for _ in range(chance.randint(1, 2)):
        node, path = content, []
        while isinstance(node, (dict, list)) and node and (not path or chance.random() < 0.8):
            key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
            path.append((node, key))
            node = node[key]
        if path:
            parent, key = path[-1]
            if chance.random() < 0.2:
                del parent[key]
            elif isinstance(parent, list) and chance.random() < 0.2:
                parent.append(copy.deepcopy(parent[key]))
            else:
                parent[key] = copy.deepcopy(chance.choice(ODD))
    return content


def _replace_number(out: bytearray, chance: random.Random) -> None:
    """Put something nasty in the place of a whole number in a text."""
    digits = [k for k, byte in enumerate(out) if 48 <= byte <= 57]
    if digits:
        first = last = chance.choice(digits)
        while first and out[first - 1] in b".-0123456789":
            first -= 1
        while last < len(out) and out[last] in b".0123456789":
            last += 1
        out[first:last] = chance.choice(NASTY)

"""Accidents of files for the tests: bytes that change or go, JSON with another value in it."""

import random

VALUES = (None, {}, [], "x", -1, 0, 3.5, True, float("nan"), 10**30, [[]], {"tensor": "nowhere"}, {"word": "Plan", "fields": {}})


def hurt(data: bytes, draw: random.Random) -> bytes:
    """A file after an accident."""
    at = draw.randrange(len(data)) if data else 0
    match draw.randrange(6):
        case 0 | 1 if data:  # one bit
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        case 2:
            return data[:at]
        case 3:
            return data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :]
        case 4:
            return data + b"\xff\x00"
        case _:
            return data[:at] + draw.randbytes(16) + data[at + 16 :]


def edited(tree, draw: random.Random):
    """JSON with one of its values replaced, or one entry gone."""
    places = list(_places(tree))
    holder, key = draw.choice(places)
    if draw.randrange(4) == 0:
        del holder[key]
    else:
        holder[key] = draw.choice(VALUES)
    return tree


def _places(node):
    for key, value in list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []:
        yield node, key
        yield from _places(value)

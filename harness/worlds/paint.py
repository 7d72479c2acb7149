"""The surfaces of a house: square images, drawn from a few colours of each room. Patterns and pictures are in metres, so that they
have their size on any wall."""

import colorsys
from typing import NamedTuple

import numpy as np

TEXELS = 64  # per surface side, as in single rooms
Image = np.ndarray  # (TEXELS, TEXELS, 3), rows from the ceiling down (or along z), in [0, 1]

_AT = ((np.arange(TEXELS) + 0.5) / TEXELS).astype(np.float32)
_V, _U = np.meshgrid(_AT, _AT, indexing="ij")
_EDGE = 1 - 0.3 * np.exp(-np.minimum(np.minimum(_U, 1 - _U), np.minimum(_V, 1 - _V)) / 0.05)[..., None]


class Colours(NamedTuple):
    """What a room is painted with. Rooms that look alike share it."""

    wall: np.ndarray
    accent: np.ndarray
    floor: np.ndarray
    floor_2: np.ndarray
    ceiling: np.ndarray
    wood: np.ndarray
    cloth: np.ndarray
    wall_pattern: int
    floor_pattern: int
    accent_side: int  # the wall that has the accent's colour; 4: none
    pitch: float  # metres of the patterns' period


def colours(g: np.random.Generator, hue: float) -> Colours:
    """Colours of a room whose walls are of a hue in [0, 1)."""
    other = hue + g.choice([0.08, -0.08, 0.5, 0.35])
    floor_hue, carpet = (g.uniform(0.05, 0.11), False) if g.random() < 0.6 else (g.random(), True)
    value = g.uniform(0.3, 0.65)
    return Colours(
        wall=_hsv(hue, g.uniform(0.15, 0.6), g.uniform(0.5, 0.92)),
        accent=_hsv(other, g.uniform(0.3, 0.75), g.uniform(0.35, 0.8)),
        floor=_hsv(floor_hue, g.uniform(0.2, 0.5) if carpet else g.uniform(0.35, 0.65), value),
        floor_2=_hsv(floor_hue, g.uniform(0.1, 0.5), value * g.uniform(0.6, 0.85)),
        ceiling=_hsv(hue, g.uniform(0.0, 0.12), g.uniform(0.82, 0.96)),
        wood=_hsv(g.uniform(0.03, 0.12), g.uniform(0.3, 0.7), g.uniform(0.25, 0.75)),
        cloth=_hsv(g.random(), g.uniform(0.4, 0.8), g.uniform(0.35, 0.85)),
        wall_pattern=int(g.integers(6)),
        floor_pattern=int(g.integers(4)),
        accent_side=int(g.integers(6)),
        pitch=g.uniform(0.5, 1.1),
    )


def _hsv(h: float, s: float, v: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(h % 1, s, v), np.float32)


def _mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> Image:
    return a + (b - a) * share[..., None]


def _square(x: np.ndarray) -> np.ndarray:
    """A wave between 0 and 1 of period 1 with soft edges."""
    return 0.5 + 0.5 * np.tanh(3 * np.sin(2 * np.pi * x))


def wall(c: Colours, side: int, size: tuple[float, float]) -> Image:
    """The bare wall of a side (0 to 3) of `size` metres (along, up)."""
    base, trim = (c.accent, c.wall) if side == c.accent_side else (c.wall, c.accent)
    x, y = _U * size[0] / c.pitch, (1 - _V) * size[1]
    share = np.zeros_like(_U)
    if c.wall_pattern in (1, 2, 4):
        share = 0.45 * _square(x)
    if c.wall_pattern == 2:
        share = share * _square(y / c.pitch)
    if c.wall_pattern == 5:
        share = 0.45 * _square(y / c.pitch)
    if c.wall_pattern in (3, 4):
        share = np.where(y < 0.95, 0.8, share)
    image = _mix(base, trim, share)
    if c.wall_pattern in (3, 4):
        image[np.abs(y - 0.95) < 0.06] = 0.6 * trim
    image[y < 0.1] = 0.5 * c.wood  # skirting
    return image * (1.0 if side < 2 else 0.88)


def floor(c: Colours, size: tuple[float, float]) -> Image:
    """Planks, tiles, a carpet with a border or a plain carpet, of `size` metres (x, z)."""
    x, z = _U * size[0], _V * size[1]
    if c.floor_pattern == 0:
        share = 0.25 + 0.5 * ((np.floor(x / 0.35) * 0.618) % 1) + 0.25 * (((x / 0.35) % 1) < 0.2)
    elif c.floor_pattern == 1:
        share = np.abs(_square(x / c.pitch) - _square(z / c.pitch))
    elif c.floor_pattern == 2:
        share = (np.minimum(np.minimum(x, size[0] - x), np.minimum(z, size[1] - z)) < 0.8) * 1.0
    else:
        share = 0.5 * _square(z / c.pitch)
    return _mix(c.floor, c.floor_2, share)


def ceiling(c: Colours, size: tuple[float, float]) -> Image:
    """Plain, with a lamp in the middle."""
    lamp = np.exp(-(((_U - 0.5) * size[0]) ** 2 + ((_V - 0.5) * size[1]) ** 2) / 0.3)
    return _mix(c.ceiling, np.array([1.0, 0.98, 0.9]), lamp)


def worn(g: np.random.Generator, image: Image, strength: float = 0.16) -> Image:
    """Large soft stains and darker edges, which no two surfaces share."""
    coarse = g.uniform(-0.5, 0.5, (6, 6, 1)) + 0.4 * g.uniform(-0.5, 0.5, (6, 6, 3))
    return np.clip((image + strength * _enlarge(coarse, TEXELS, TEXELS).astype(np.float32)) * _EDGE, 0, 1)


def _enlarge(grid: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Bilinear, corners on corners."""

    y, x = (np.clip(1 - np.abs(np.linspace(0, m - 1, n)[:, None] - np.arange(m)), 0, 1) for n, m in ((rows, grid.shape[0]), (columns, grid.shape[1])))
    return np.tensordot(y, x @ grid, 1)  # einsum takes 40 times as long


def hang(g: np.random.Generator, image: Image, size: tuple[float, float], doors: list[tuple[float, float]], outside: bool) -> None:
    """Draw windows (on an `outside` wall) and pictures where there is no door. doors: their ends in [0, 1] along the wall."""
    taken = list(doors)
    for i in range(1 + int(g.integers(3))):
        window = outside and i == 0 and g.random() < 0.6
        width, height = (g.uniform(0.9, 1.4), g.uniform(0.9, 1.3)) if window else (g.uniform(0.5, 1.2), g.uniform(0.5, 1.0))
        middle = (size[1] - (1.55 if window else g.uniform(1.35, 1.75))) / size[1]
        half = width / size[0] / 2
        for _ in range(6):
            at = g.uniform(half + 0.04, 1 - half - 0.04)
            if all(at + half + 0.03 < low or at - half - 0.03 > high for low, high in taken):
                taken.append((at - half, at + half))
                x0, x1 = round((at - half) * TEXELS), round((at + half) * TEXELS)
                y0, y1 = round((middle - height / size[1] / 2) * TEXELS), round((middle + height / size[1] / 2) * TEXELS)
                _frame(g, image[max(y0, 1) : y1, max(x0, 1) : x1], window)
                break


def _frame(g: np.random.Generator, part: np.ndarray, window: bool) -> None:
    """Fill a part of an image with a window or a framed picture."""
    rows, columns = part.shape[0] - 2, part.shape[1] - 2
    part[:] = 0.92 if window else _hsv(g.random(), g.uniform(0.0, 0.8), g.uniform(0.1, 0.9))
    if window:
        sky, ground = _hsv(g.uniform(0.53, 0.62), g.uniform(0.2, 0.6), 0.98), _hsv(g.uniform(0.2, 0.42), g.uniform(0.3, 0.7), g.uniform(0.3, 0.65))
        line = np.linspace(0, 1, rows)[:, None] > g.uniform(0.45, 0.75) + 0.12 * np.sin(np.linspace(0, g.uniform(2, 7), columns) + g.uniform(0, 6))
        part[1:-1, 1:-1] = _mix(sky, ground, line * 1.0)
        part[1:-1, columns // 2 + 1] = 0.92
        return
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None]
    a, b, c = (_hsv(g.random(), g.uniform(0.3, 1.0), g.uniform(0.3, 1.0)) for _ in range(3))
    kind = int(g.integers(5))
    if kind < 2:
        part[1:-1, 1:-1] = _enlarge(g.uniform(0.1, 0.95, (3, 3, 3)), rows, columns)
        return
    turn = g.uniform(-1.5, 1.5)
    share = (x**2 + y**2 < g.uniform(0.2, 0.7), x * np.cos(turn) + y * np.sin(turn) > 0, np.sin(g.uniform(4, 9) * (x * np.cos(turn) + y * np.sin(turn))) > 0)[
        kind - 2
    ]
    part[1:-1, 1:-1] = _mix(a, b, np.broadcast_to(share * 1.0, (rows, columns)))
    if kind == 2:
        part[1 + rows // 2 : -1, 1:-1] = 0.5 * part[1 + rows // 2 : -1, 1:-1] + 0.5 * c


def opening(image: Image, ends: tuple[float, float], top: float, wood: np.ndarray) -> None:
    """Draw the frame around a doorway; inside, the texture is not seen."""
    x0, x1, y0 = round(ends[0] * TEXELS), round(ends[1] * TEXELS), round(top * TEXELS)
    image[max(y0 - 2, 0) :, max(x0 - 2, 0) : x1 + 2] = wood


def piece(g: np.random.Generator, c: Colours, kind: str, size: tuple[float, float, float]) -> list[Image]:
    """The sides of a piece of furniture of `size` metres across x, y (its top) and z."""
    whole = np.ones((TEXELS, TEXELS, 3))
    if kind == "pillar":
        body = _mix(c.ceiling * 0.9, c.accent, 0.7 * (_square(3 * _V) if c.wall_pattern % 2 else ((_V < 0.1) | (_V > 0.9)) * 1.0))
        return [body * 0.95, whole * c.ceiling, body * 0.8]
    if kind == "shelf":
        books = np.repeat(np.repeat(g.uniform(0.1, 0.9, (4, 16, 3)) * g.uniform(0.5, 1, (4, 16, 1)), 16, 0), 4, 1)
        front = np.where((((_V * 4) % 1) < 0.16)[..., None] | (np.abs(_U - 0.5) > 0.46)[..., None], c.wood, books)
        return [front, whole * c.wood, front * 0.85]
    if kind == "table":
        cloth = np.where((_V < 0.25)[..., None], c.cloth, 0.35 * c.wood)
        top = _mix(c.cloth, c.ceiling, 0.8 * ((np.maximum(np.abs(_U - 0.5), np.abs(_V - 0.5)) < 0.28) * 1.0))
        return [cloth * 0.9, top, cloth * 0.7]
    lines = ((_V * 3) % 1 < 0.1) | ((np.abs(_U - 0.5) < 0.06) & (np.abs((_V * 3) % 1 - 0.5) < 0.12))
    front = _mix(c.cloth if g.random() < 0.4 else c.wood, 0.3 * c.wood, lines * 1.0)
    return [front, whole * c.wood * 1.15, front * 0.8]

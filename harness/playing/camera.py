"""Keys to camera: which moves the pressed keys make, and where walls stop them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harness.worlds.poses import ACTIONS, rotation

KEYS = ("W", "S", "A", "D", "left", "right", "wait")  # moves, turns, and a chunk that stands still
Free = Callable[[Float[Tensor, "n 2"]], Bool[Tensor, "n"]]


@dataclass(frozen=True)
class Camera:
    """Where the camera is: metres along the x and z of `start` and degrees to the right of its heading, in float64, so that a way
    back ends where it began. step, degrees: metres and turn of a video frame."""

    start: Float[Tensor, "4 4"]
    step: float
    degrees: float
    x: float = 0.0
    z: float = 0.0
    yaw: float = 0.0

    @property
    def pose(self) -> Float[Tensor, "4 4"]:
        local = torch.eye(4, dtype=torch.float64)
        yaw = torch.tensor(self.yaw, dtype=torch.float64)
        local[:3, :3] = rotation(yaw, torch.zeros_like(yaw))
        local[0, 3], local[2, 3] = self.x, self.z
        return (self.start.double() @ local).float()

    def walk(self, keys: Iterable[str], frames: int, free: Free | None) -> tuple["Camera", Float[Tensor, "f 4 4"], Float[Tensor, "f 6"], bool]:
        """`frames` frames with these keys down: where the camera then is, a pose and an action each, and whether a wall was in the
        way. The camera then slides along the wall, or stays. free: where it may stand; None: anywhere."""
        held, camera, blocked = frozenset(keys), self, False
        forward, right, turn = (float((a in held) - (b in held)) for a, b in (("W", "S"), ("D", "A"), ("right", "left")))
        poses, actions = [], torch.zeros(frames, len(ACTIONS))
        for row in actions:
            allowed = next((m for m in _moves(forward, right) if free is None or camera._moved(*m)._stands(free)), (0.0, 0.0))
            blocked |= allowed != (forward, right)
            camera = camera._moved(*allowed)._turned(turn)
            row[0], row[1], row[2], row[3] = max(allowed[0], 0), max(-allowed[0], 0), max(-allowed[1], 0), max(allowed[1], 0)
            row[4] = turn * self.degrees
            poses.append(camera.pose)
        return camera, torch.stack(poses), actions, blocked

    def _moved(self, forward: float, right: float) -> "Camera":
        if not forward and not right:
            return self
        angle = math.radians(self.yaw)
        x = forward * math.sin(angle) + right * math.cos(angle)
        z = forward * math.cos(angle) - right * math.sin(angle)
        # a nanometre's rounding: a way back is exact, and a place that is reached twice is the same number
        return replace(self, x=round(self.x + x * self.step, 9), z=round(self.z + z * self.step, 9))

    def _turned(self, turn: float) -> "Camera":
        return replace(self, yaw=(self.yaw + turn * self.degrees) % 360) if turn else self

    def _stands(self, free: Free) -> bool:
        return bool(free(self.pose[None, [0, 2], 3])[0])


def _moves(forward: float, right: float) -> Sequence[tuple[float, float]]:
    """What was asked for, then its parts, the way ahead first."""
    return [(forward, right), *([(forward, 0.0), (0.0, right)] if forward and right else [])]


def read_script(text: str) -> list[frozenset[str]]:
    """Keys chunk by chunk from a script: `W W+D left*4 wait`, `#` to the end of a line is a remark. Raises ValueError for what it cannot read."""
    chunks: list[frozenset[str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        for word in line.partition("#")[0].split():
            keys, star, count = word.partition("*")
            held = frozenset(keys.split("+"))
            if held - set(KEYS) or (star and not count.isdecimal()):
                raise ValueError(f"line {number} of the script: cannot read {word!r}; write keys of a chunk as W, W+D, left*4 (keys: {', '.join(KEYS)})")
            chunks += [held] * (int(count) if star else 1)
    if not chunks:
        raise ValueError("the script has no keys; write for example: right*3 left*3")
    return chunks

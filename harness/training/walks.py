"""Where the camera of a training clip goes: walks through a scene, and which of their frames a clip shows at what times."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from harness.worlds.houses import House, make_house
from harness.worlds.poses import integrate
from harness.worlds.rooms import make_room, place
from harness.worlds.scene import Scene
from harness.worlds.tours import tour

CHUNK = 3  # latent frames
KINDS = {"contiguous": 0.25, "skipping": 0.35, "cutting": 0.4}  # kind of a clip: its share
TURNS = (7.5, 9.0, 10.0, 15.0)  # degrees a frame; tours need divisors of 90


class Walk(NamedTuple):
    """A scene and the poses of a walk in it; the first pose is the origin that a clip's poses refer to."""

    scene: Scene
    c2w: Float[Tensor, "f 4 4"]


def random_actions(g: Generator, frames: int) -> Float[Tensor, "f 6"]:
    """Actions made of segments of 2 to 7 frames: turns of 4 to 14 degrees a frame, steps in all four directions, holds."""
    actions = torch.zeros(frames, 6)
    at = 1
    while at < frames:
        end = at + int(torch.randint(2, 8, (1,), generator=g))
        turn, walk = (torch.rand(2, generator=g) < torch.tensor([0.75, 0.4])).tolist()
        if turn:
            sign = 1 if torch.rand(1, generator=g) < 0.5 else -1
            actions[at:end, 4] = sign * (4 + 10 * torch.rand(1, generator=g))
        if walk:
            actions[at:end, int(torch.randint(4, (1,), generator=g))] = 1
        at = end
    return actions


def returning(g: Generator, c2w: Float[Tensor, "f 4 4"], share: float) -> Float[Tensor, "f 4 4"]:
    """A walk, or with a chance of `share` its first half and the way back, so that early views return late."""
    if torch.rand(1, generator=g) >= share:
        return c2w
    half = c2w[: len(c2w) // 2 + 1]
    return torch.cat([half, half.flip(0)[1:]])[: len(c2w)]


def room_walk(seed: int, g: Generator, frames: int, step: float, back: float = 2 / 3) -> Walk:
    """A random walk in the room of a seed; a share of `back` walks back the way they came. step: metres a frame."""
    room = make_room(seed)
    world, _ = place(g, room, returning(g, integrate(random_actions(g, frames), step), back))
    return Walk(room.scene, world)


def house_walk(seed: int, g: Generator, frames: int, step: float, back: float = 1 / 3) -> Walk:
    """A stretch of a tour of the house of a seed; a share of `back` walks back the way they came.

    Tours turn by 7.5 to 15 degrees a frame and take steps of 1 to 1.5 times `step` metres, for a house is larger than a room.
    """
    house = make_house(seed)
    degrees = TURNS[int(torch.randint(len(TURNS), (1,), generator=g))]
    pace = step * (1 + 0.5 * torch.rand(1, generator=g).item())
    length = frames * int(torch.randint(1, 4, (1,), generator=g))
    c2w = _tour(house, max(length, 60), pace, degrees)
    start = int(torch.randint(len(c2w) - frames + 1, (1,), generator=g))
    return Walk(house.scene, returning(g, c2w[start : start + frames], back))


def _tour(house: House, frames: int, step: float, degrees: float) -> Float[Tensor, "f 4 4"]:
    """A tour of `frames` frames, or the shortest longer one that the house has."""
    while True:
        try:
            return tour(house.plan, house.seed, frames, step, degrees).c2w
        except ValueError:  # too short to come back in this house
            if frames > 2000:
                raise
            frames *= 2


def choose(g: Generator, chunks: int, frames: int) -> tuple[Tensor, Tensor]:
    """Which frames of a walk of `frames` frames a clip of `chunks` chunks shows, and the times that they have: two of [chunks * CHUNK].

    contiguous: the walk's beginning. skipping: chunks of the walk with holes between them, as every cache policy makes
    them; no policy's windows are then out of distribution. cutting: the camera jumps to an earlier place or to a new one, in
    either direction, while time goes on (in half of these clips time has holes too): a memory's probe is such a jump.
    """
    kind = list(KINDS)[int(torch.multinomial(torch.tensor(list(KINDS.values())), 1, generator=g))]
    whole, inside = frames // CHUNK, torch.arange(CHUNK)
    contiguous, skipping = torch.arange(chunks), torch.randperm(whole, generator=g)[:chunks].sort().values
    if kind == "contiguous":
        times = contiguous[:, None] * CHUNK + inside
        return times.flatten(), times.flatten()
    times = (skipping[:, None] * CHUNK + inside).flatten()
    if kind == "skipping":
        return times, times
    if torch.rand(1, generator=g) < 0.5:
        times = (contiguous[:, None] * CHUNK + inside).flatten()
    return cuts(g, chunks, frames), times


def cuts(g: Generator, chunks: int, frames: int) -> Tensor:
    """Frames of a clip whose camera jumps after every 1 to 4 chunks: three in five times to where it was in this clip, else anywhere."""
    shown: list[Tensor] = []
    while len(shown) < chunks:
        length = min(int(torch.randint(1, 5, (1,), generator=g)), chunks - len(shown))
        back, turned = (torch.rand(2, generator=g) < torch.tensor([0.6, 0.3])).tolist()
        start = int(torch.randint(frames - length * CHUNK + 1, (1,), generator=g))
        if shown and back:
            earlier = shown[int(torch.randint(len(shown), (1,), generator=g))]
            start = min(int(earlier.min()), frames - length * CHUNK)
        run = start + torch.arange(length * CHUNK)
        shown += list((run.flip(0) if turned else run).split(CHUNK))
    return torch.cat(shown)

"""The trajectory grammar of the field: letters R L W S A D and _, and an angle."""

import re

import torch
from jaxtyping import Float
from torch import Tensor

from harness.worlds.poses import ACTIONS

# The staggered schedules leave and return at several distances in time, so that selectors differ: a plain out-and-back
# cannot tell them apart (the newest chunk of the outbound leg is also the nearest view).
PRESETS = {
    "out_back": "R_L180",
    "zigzag": "R_L_R_L90",
    "walk_turn": "WR_LS120",
    "sidestep_turn": "DL_RA120",
    "full_loop": "R90R90R90R90",
    "staggered_mid": "R180L90R90L180",
    "staggered_far": "L150R60L60R60L60R150",
    "staggered_walk": "WR120L60R60L120S",
    "staggered_dwell": "R120__L120L90__R90R60L60",
}


LONGEST = 1_000_000  # video frames


def parse(spec: str, degrees: float = 10.0, move_frames: int = 6, hold_frames: int = 3) -> Float[Tensor, "f 6"]:
    """Actions of a trajectory string; row 0 is the start pose's (zero).

    R/L turn right/left, W/S/A/D move for `move_frames` frames, _ holds for `hold_frames`. The number at the end is the
    angle of every turn (`R_L_R_L90`); a number after an earlier turn is that turn's own (`R180L90R90L180`). Turns go at
    `degrees` a frame. Raises ValueError for anything else.
    """
    text = PRESETS.get(spec, spec)
    tokens = re.findall(r"([RLWSAD_])(\d+(?:\.\d+)?)?", text)
    if "".join(letter + number for letter, number in tokens) != text or not tokens:
        bad = re.sub(r"[RLWSAD_\d.]", "", text)
        raise ValueError(
            f"trajectory {spec!r}: cannot read {bad or text!r}; use letters R L W S A D _ and an angle, as in R_L_R_L90, or a preset: {', '.join(PRESETS)}"
        )
    if unused := [letter + number for letter, number in tokens[:-1] if number and letter not in "RL"]:
        raise ValueError(f"trajectory {spec!r}: {unused[0]} has a number, but only turns have angles; lengths are world.move_frames and world.hold_frames")
    trailing = tokens[-1][1]
    turned = sum(float(number or trailing or 0) for letter, number in tokens if letter in "RL") / degrees
    if (frames := turned + len(tokens) * max(move_frames, hold_frames)) > LONGEST:
        raise ValueError(f"trajectory {spec!r}: up to {frames:,.0f} video frames; trajectories have {LONGEST:,} at most")
    rows = [torch.zeros(1, 6)]
    for letter, number in tokens:
        if letter in "RL":
            rows.append(_turn(letter, number or trailing, degrees, spec))
        elif letter == "_":
            rows.append(torch.zeros(hold_frames, 6))
        else:
            move = torch.zeros(move_frames, 6)
            move[:, ACTIONS.index(letter)] = 1
            rows.append(move)
    return torch.cat(rows)


def _turn(letter: str, number: str, degrees: float, spec: str) -> Float[Tensor, "f 6"]:
    if not number:
        raise ValueError(f"trajectory {spec!r}: {letter} needs an angle; end the string with one, as in {spec}90")
    angle = float(number)
    count = round(angle / degrees)
    if count == 0 or abs(count * degrees - angle) > 1e-6:
        raise ValueError(f"trajectory {spec!r}: {angle} degrees is no multiple of {degrees} degrees a frame; change the angle or world.degrees")
    turn = torch.zeros(count, 6)
    turn[:, ACTIONS.index("yaw")] = degrees if letter == "R" else -degrees
    return turn


def pad(actions: Float[Tensor, "f 6"], multiple: int) -> Float[Tensor, "g 6"]:
    """Hold at the end until the number of frames is a multiple: whole chunks, nothing cut off."""
    return torch.cat([actions, actions.new_zeros(-len(actions) % multiple, 6)])

"""One policy's side of a walk: its session, and its pictures as the page gets them."""

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from harness.backbone import Backbone
from harness.outcome import ChunkStats
from harness.playing.setup import Made
from harness.reporting.trace import trace
from harness.session import Session
from harness.trajectory import Trajectory
from metrics.cost import held

LOSSLESS = 128 * 128  # pixels of a picture up to which it is a PNG; larger ones are JPEG, which takes a tenth of the time and bytes


@dataclass
class Pane:
    """pictures: one file a video frame. psnr: of each chunk's last frame against the true view, where there is one. since: the first
    chunk that was made under this policy; those before it were read again."""

    made: Made
    session: Session
    since: int = 1
    pictures: list[bytes] = field(default_factory=list)
    psnr: list[float | None] = field(default_factory=list)

    @classmethod
    def begin(cls, made: Made, backbone: Backbone, path: Trajectory, seed: int, latents: Float[Tensor, "f s c"]) -> "Pane":
        """latents: of the chunks so far, which `step` reads again one by one."""
        return cls(made, Session.begin(backbone, made.policy, made.store, path, seed, latents))

    def step(self, c2w: Float[Tensor, "p 4 4"] | None = None, actions: Float[Tensor, "p 6"] | None = None) -> Float[Tensor, "p 3 y x"]:
        """The next chunk, as `Session.step`."""
        frames, _ = self.session.step(c2w, actions)
        self.pictures += [picture(frame) for frame in frames]
        return frames

    def fork(self) -> "Pane":
        return Pane(self.made, self.session.fork(), self.since, list(self.pictures), list(self.psnr))

    def close(self) -> None:
        self.session.close()

    def described(self) -> dict:
        """What the page shows beside the picture."""
        stats = self.session.stats
        return {
            "label": self.made.label,
            **asdict(self.made.choice),
            "keeps": self.made.ratio,
            "since": self.since,
            "psnr": list(self.psnr),
            "cost": self.cost(),
        } | (memory_of(stats) if stats else {})

    def cost(self) -> dict[str, float]:
        """Of the last chunk: frames a second, tokens that it attended to, bytes that are stored, seconds."""
        if not self.session.stats:
            return {}
        last = self.session.stats[-1]
        return {
            "fps": last.frames_px / max(last.seconds, 1e-9),
            "tokens": last.attended_rows,
            "stored": held(last)["stored_bytes"],
            "seconds": last.seconds,
            "forced": last.forced,
        }


def memory_of(stats: list[ChunkStats]) -> dict:
    """What became of every past chunk at the last one, as in the report: a letter each, and the percent of its rows."""
    found = trace([_traced(stats[0]), _traced(stats[-1])])  # the first chunk says how many rows are a whole chunk's
    percents = [found.levels[ord(letter) - 48] for letter in found.shares[-1]] if len(found.shares) == 2 else None
    return {"states": found.states[-1], "percents": percents}


def _traced(stats: ChunkStats) -> dict[str, float | str]:
    """The trace's part of a chunk's row in chunks.csv. (The writer of the whole row comes with seconds of imports.)"""
    row = {k: getattr(stats, k) for k in ("chunk", "start", "frames", "attended_rows", "unreachable_frames")}
    lists = ("retrieved", "attended", "unreachable", "stored", "taken")
    return row | {k: " ".join(map(str, getattr(stats, k))) for k in lists if getattr(stats, k) is not None}


def picture(frame: Float[Tensor, "3 y x"]) -> bytes:
    """A video frame in [0, 1] as a file that a browser draws."""
    array = (frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    out = io.BytesIO()
    if array.shape[0] * array.shape[1] <= LOSSLESS:
        Image.fromarray(array).save(out, "PNG", compress_level=1)
    else:
        Image.fromarray(array).save(out, "JPEG", quality=90)
    return out.getvalue()


def psnr(a: Float[Tensor, "3 y x"], b: Float[Tensor, "3 y x"]) -> float:
    """Decibels, at most 99: what is equal is not infinitely good."""
    error = (a - b).square().mean().clamp(min=1e-10)
    return round(min(99.0, -10 * torch.log10(error).item()), 2)


Tell = Callable[..., None]  # a message to the pages: a dictionary for JSON, and pictures that travel with it

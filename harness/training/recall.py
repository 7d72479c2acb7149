"""What the model remembers while it trains: the camera jumps back to a place that it saw some chunks ago, and one chunk is generated there."""

import csv
from collections.abc import Callable
from pathlib import Path

import lightning as L
import matplotlib
import matplotlib.pyplot as plt
import torch

from backbones.rooms import RoomsBackbone
from harness.cache.stores import GpuStore
from harness.policy import CachePolicy
from harness.rollout import rollout
from harness.system.files import write_atomic
from harness.training.clips import Scenery
from harness.training.modules import DenoiserTraining, decibel
from harness.training.walks import CHUNK, house_walk, room_walk
from harness.trajectory import Trajectory
from harness.worlds.poses import pinhole
from harness.worlds.render import render
from harness.worlds.rooms import SEEDS

matplotlib.use("Agg")
FIRST = 1  # the chunk that is shown again: not the very first, which is every window's sink


def probe(seed: int, house: bool, gap: int, longest: int, scenery: Scenery) -> Trajectory:
    """Chunks 0 to `gap` of a walk as given images, then the poses of chunk `FIRST` again: `gap` chunks after its first visit.

    The walk is the same for every gap up to `longest`, and does not go back the way it came.
    """
    g = torch.Generator().manual_seed(seed)
    walk = (house_walk if house else room_walk)(seed, g, (longest + FIRST) * CHUNK, scenery.step, back=0.0)
    context = (gap + FIRST) * CHUNK
    c2w = torch.cat([walk.c2w[:context], walk.c2w[FIRST * CHUNK : (FIRST + 1) * CHUNK]])
    size = (scenery.size, scenery.size)
    intrinsics = pinhole(scenery.fov, size, len(c2w))
    frames = render(walk.scene, c2w, intrinsics, size)
    return Trajectory(f"probe{seed}_{gap}", c2w, intrinsics, torch.zeros(len(c2w), 6), frames[:context], (), reference=frames)


class RecallCurve(L.Callback):
    """After every validation: PSNR of the chunk that is generated at an earlier pose, by the chunks since the first visit.

    Logged as val/recall_GAP, and appended with rooms and houses apart to recall.csv, drawn in recall.png. scenes: walks per gap and
    kind of scene, the same ones every time. Stands before the EMA callback, so that it sees the average. model: as it is now; policy: under which
    it is rolled out.
    """

    def __init__(
        self, folder: Path, scenery: Scenery, model: Callable[[], RoomsBackbone], policy: CachePolicy, gaps: list[int], scenes: int, seen: int
    ) -> None:
        self.folder, self.scenery, self.model, self.policy = folder, scenery, model, policy
        self.gaps, self.scenes, self.seen = gaps, scenes, seen
        self.kinds = {"rooms": scenery.houses < 1, "houses": scenery.houses > 0}

    def on_validation_epoch_end(self, trainer: L.Trainer, module: DenoiserTraining) -> None:
        backbone = self.model()
        step = self.seen + trainer.global_step // len(trainer.optimizers)
        rows = []
        for gap in self.gaps:
            values = {kind: self._recall(backbone, kind == "houses", gap) for kind, there in self.kinds.items() if there}
            rows += [(step, kind, gap, f"{value:.3f}") for kind, value in values.items()]
            module.log(f"val/recall_{gap:02d}", sum(values.values()) / len(values))
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "recall.csv"
        known = [r for r in csv.reader(file.read_text().splitlines()) if r and r != HEAD and r[0] != str(step)] if file.exists() else []
        write_atomic(file, "".join(",".join(map(str, r)) + "\n" for r in [HEAD, *known, *rows]))
        draw(file, self.folder / "recall.png")

    def _recall(self, backbone: RoomsBackbone, house: bool, gap: int) -> float:
        """Mean over the scenes."""
        values = []
        for seed in SEEDS["validation"][: self.scenes]:
            trajectory = probe(seed, house, gap, max(self.gaps), self.scenery)
            with torch.autocast("cpu", enabled=False):
                out = rollout(backbone, self.policy, GpuStore(), trajectory, 0, backbone.encode(trajectory.images))
            assert trajectory.reference is not None
            values.append(decibel((out.frames - trajectory.reference)[-CHUNK:].square().mean((1, 2, 3))).mean())
        return torch.stack(values).mean().item()


HEAD = ["step", "scenes", "gap", "psnr"]  # of recall.csv


def draw(file: Path, picture: Path) -> None:
    """The curves of recall.csv: one a validation, the newest darkest, rooms and houses apart."""
    rows = list(csv.DictReader(file.open()))
    kinds = sorted({r["scenes"] for r in rows})
    figure, axes = plt.subplots(1, len(kinds), figsize=(5 * len(kinds), 3.5), sharey=True, squeeze=False)
    steps = sorted({int(r["step"]) for r in rows})
    for axis, kind in zip(axes[0], kinds, strict=True):
        for number, step in enumerate(steps):
            points = sorted((int(r["gap"]), float(r["psnr"])) for r in rows if r["scenes"] == kind and int(r["step"]) == step)
            newest = number == len(steps) - 1
            axis.plot(
                *zip(*points, strict=True),
                "o-",
                color=plt.get_cmap("viridis_r")((number + 1) / len(steps)),
                label=f"step {step}" if newest or number == 0 else None,
            )
        axis.set(title=kind, xlabel="chunks since the first visit", xscale="log", xticks=[p for p, _ in points], xticklabels=[str(p) for p, _ in points])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("PSNR of the chunk there, dB")
    axes[0][-1].legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=100)
    plt.close(figure)

"""A walk through the world model: one to three policies that are stepped with the same poses and noise."""

import time
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from harness.playing.camera import Camera
from harness.playing.pane import Pane, Tell, picture, psnr
from harness.playing.setup import Choice, Setup
from harness.playing.visits import Visit, first_visit
from harness.worlds.poses import top_view

MOST = 3  # policies side by side
MARKS = 8  # places that are remembered at once


@dataclass
class Mark:
    """A moment that one can go back to: forks of all panes."""

    panes: list[Pane]
    camera: Camera
    truth: list[Tensor]
    true_pictures: list[bytes]
    chunk: int

    def fork(self) -> list[Pane]:
        return [pane.fork() for pane in self.panes]


class Walk:
    """Everything that runs the model. Used by one thread; `tell` carries what happens to the pages, and must not wait.

    version: grows when pictures of before are no longer those of now. truth: true frames, where the world has them.
    """

    def __init__(self, setup: Setup, choices: list[Choice], tell: Tell) -> None:
        if not 1 <= len(choices) <= MOST:
            raise ValueError(f"{len(choices)} policies are asked for; use 1 to {MOST} side by side, as in policy=worldkv,sliding")
        self.setup, self.choices, self.tell = setup, choices, tell
        self.panes: list[Pane] = []
        self.marks: list[Mark] = []
        self.truth: list[Tensor] = []
        self.true_pictures: list[bytes] = []
        self.camera = setup.camera()
        self.version, self.broken = int(time.time()), ""  # browsers keep pictures by it, those of an earlier server too

    @property
    def done(self) -> int:
        """Chunks so far."""
        return self.panes[0].session.done if self.panes else 0

    @property
    def path(self):
        """The path so far."""
        path, end = self.panes[0].session.path, len(self.panes[0].pictures)
        return replace(path, c2w=path.c2w[:end], intrinsics=path.intrinsics[:end], actions=path.actions[:end])

    def begin(self, choices: list[Choice] | None = None) -> None:
        """From the start of the world, with these policies or the last ones."""
        choices = choices or self.choices
        setup = self.setup
        start, latents = setup.start, setup.backbone.encode(setup.start.images)
        made = [setup.make(choice) for choice in choices]
        self.close()
        self.choices, self.camera = choices, setup.camera()
        self.panes = [Pane.begin(m, setup.backbone, start, setup.cfg.seed, latents) for m in made]
        for i, pane in enumerate(self.panes):
            self._shown(i, pane.step())
        self._told_truth(False)
        self.renew()

    def step(self, keys: frozenset[str], pressed_at: float | None = None) -> bool:
        """The next chunk of every pane with these keys down. Returns False where a wall leaves no move: then there is no chunk.

        pressed_at: the page's own time, told back with the pictures.
        """
        self._check_unbroken()
        free = self.setup.ground and self.setup.ground.free
        camera, c2w, actions, blocked = self.camera.walk(keys, self.setup.frames_px, free)
        if blocked and camera == self.camera:
            self.tell({"type": "blocked"})
            return False
        try:
            for i, pane in enumerate(self.panes):
                self._shown(i, pane.step(c2w, actions), pressed_at)
        except Exception as error:
            self.broken = str(error)
            raise
        self.camera = camera
        self._told_truth(blocked)
        return True

    def choose(self, index: int, choice: Choice) -> None:
        """Another policy in a pane, or one more pane. It reads the walk so far again, by the clean pass of each chunk's latents, as if
        it had been there from the start; what comes next is its own. The old one stays if that fails."""
        self._check_unbroken()
        if not 0 <= index <= min(len(self.panes), MOST - 1):
            raise ValueError(f"there is no pane {index + 1}; use 1 to {min(len(self.panes) + 1, MOST)}")
        pane = self._read_again(index, choice)
        if index < len(self.panes):
            self.panes[index].close()
        self.panes[index : index + 1] = [pane]
        self.renew()

    def _read_again(self, index: int, choice: Choice) -> Pane:
        made = self.setup.make(choice)
        source = self.panes[min(index, len(self.panes) - 1)]
        pane = Pane.begin(made, self.setup.backbone, self.path, self.setup.cfg.seed, source.session.latents.made.clone())
        try:
            for chunk in range(self.done):
                self.tell({"type": "reading", "pane": index, "label": made.label, "chunk": chunk, "of": self.done})
                pane.step()
        except Exception:
            pane.close()
            raise
        pane.pictures, pane.psnr, pane.since = list(source.pictures), list(source.psnr), self.done
        return pane

    def drop(self, index: int) -> None:
        """A pane less."""
        if len(self.panes) == 1 or not 0 <= index < len(self.panes):
            raise ValueError(f"pane {index + 1} of {len(self.panes)} cannot be taken away; one stays")
        self.panes.pop(index).close()
        self.renew()

    def remember(self) -> None:
        """A mark at which the walk can go on a second time."""
        self._check_unbroken()
        if len(self.marks) == MARKS:
            raise ValueError(f"{MARKS} places are remembered already, each with a memory of its own; forget one first")
        self.marks.append(Mark([p.fork() for p in self.panes], self.camera, list(self.truth), list(self.true_pictures), self.done))
        self.renew()

    def back(self, index: int) -> None:
        """Go on from a mark, which stays."""
        mark = self._mark(index)
        forks = mark.fork()
        for pane in self.panes:
            pane.close()
        self.panes, self.camera, self.broken = forks, mark.camera, ""
        self.truth, self.true_pictures = list(mark.truth), list(mark.true_pictures)
        self.renew()

    def forget(self, index: int) -> None:
        for pane in self._mark(index).panes:
            pane.close()
        del self.marks[index]
        self.renew()

    def close(self) -> None:
        """Give back all memory of the walk. The model stays."""
        for pane in [*self.panes, *(p for m in self.marks for p in m.panes)]:
            pane.close()
        self.panes, self.marks, self.truth, self.true_pictures, self.broken = [], [], [], [], ""

    def _check_unbroken(self) -> None:
        if self.broken:
            raise ValueError(f"the walk cannot go on: {self.broken}; go back to a place that you remembered, or begin anew")

    def renew(self) -> None:
        """Tell the pages all of it anew."""
        self.choices = [p.made.choice for p in self.panes]
        self.version += 1
        self.tell(self.described())

    def described(self) -> dict:
        g = self.setup.backbone.geometry
        return {
            "type": "walk",
            "version": self.version,
            "chunks": self.done,
            "frames": [g.frames_px(g.chunk), self.setup.frames_px],
            "size": list(self.setup.size),
            "fov": self.setup.fov,
            "name": self.setup.start.name,
            "panes": [p.described() for p in self.panes],
            "camera": top_view(self.path.c2w) if self.panes else [],
            "plan": self.setup.ground and self.setup.ground.plan(),
            "truth": bool(self.truth),
            "marks": [m.chunk for m in self.marks],
            "visit": self._visit_told(self.visit()) if self.panes else None,
            "broken": self.broken,
        }

    def visit(self) -> Visit | None:
        """The earlier view that the last one is like."""
        return first_visit(self.path.c2w, self.setup.fov)

    def _shown(self, index: int, frames: Float[Tensor, "p 3 y x"], pressed_at: float | None = None) -> None:
        """A pane has its next chunk: it is told at once."""
        pane = self.panes[index]
        session = pane.session
        about = {"type": "chunk", "pane": index, "chunk": session.done - 1, "first": len(pane.pictures) - len(frames), "version": self.version}
        self.tell(
            about | {"pressed_at": pressed_at} | {k: v for k, v in pane.described().items() if k in ("cost", "states", "percents")},
            *pane.pictures[-len(frames) :],
        )

    def _told_truth(self, blocked: bool) -> None:
        """After all panes: where the camera is, the true view, and how near the panes came to it."""
        count = len(self.panes[0].pictures)
        new = range(len(self.truth), count) if self.setup.ground else range(0)
        path = self.path
        if new and self.setup.ground:
            frames = self.setup.ground.view(path.c2w[new.start :], path.intrinsics[new.start :], self.setup.size).cpu()
            self.truth += list(frames)
            self.true_pictures += [picture(f) for f in frames]
        for pane in self.panes:
            pane.psnr.append(psnr(pane.session.frames.made[-1], self.truth[-1]) if self.truth else None)
        first = 0 if self.done == 1 else count - self.setup.frames_px
        about = {
            "type": "camera",
            "chunk": self.done - 1,
            "first": first,
            "version": self.version,
            "camera": top_view(path.c2w[first:]),
            "blocked": blocked,
            "psnr": [p.psnr[-1] for p in self.panes],
            "visit": self._visit_told(self.visit()),
        }
        self.tell(about, *self.true_pictures[first:])

    def _visit_told(self, visit: Visit | None) -> dict | None:
        """With the PSNR of each pane between the two views, where they are one."""
        if visit is None:
            return None
        frames = [p.session.frames.made for p in self.panes]
        same = [psnr(f[visit.frame], f[-1]) for f in frames] if visit.exact else None
        return {"frame": visit.frame, "metres": round(visit.metres, 3), "degrees": round(visit.degrees, 2), "psnr": same}

    def _mark(self, index: int) -> Mark:
        if not 0 <= index < len(self.marks):
            raise ValueError(f"there is no remembered place {index + 1} of {len(self.marks)}")
        return self.marks[index]

"""The thread that owns the model. Pages send commands into a queue, and never wait for it; what happens goes out by `tell`, which
never waits for a page."""

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from harness.playing import saving
from harness.playing.messages import Back, Begin, Choose, Chunk, Command, Describe, Drop, Forget, Keys, Leave, Open, Remember, Save
from harness.playing.walk import Walk

log = logging.getLogger(__name__)
AT_A_WALL = 0.1  # seconds between looks at the keys while a wall leaves no move


@dataclass(frozen=True)
class _End:
    """The thread ends."""


class Worker(threading.Thread):
    """Steps the walk while keys are down. failed: why the model could not be made, once that is known."""

    def __init__(self, make: Callable[[], Walk]) -> None:
        super().__init__(name="model", daemon=True)
        self._make, self._inbox = make, queue.Queue[Command | _End]()
        self._held: frozenset[str] = frozenset()
        self._tapped: frozenset[str] = frozenset()  # pressed since the last chunk began, and maybe released already
        self._pressed_at: float | None = None
        self.walk: Walk | None = None
        self.failed: Exception | None = None
        self.ready = threading.Event()  # the model is there, or is known not to be

    def do(self, command: Command) -> None:
        """From any thread; returns at once."""
        self._inbox.put(command)

    def end(self) -> None:
        """The walk is closed and the thread ends, after the chunk that runs."""
        self._inbox.put(_End())

    def run(self) -> None:
        try:
            self.walk = walk = self._make()
        except Exception as error:
            self.failed = error
            return
        finally:
            self.ready.set()
        wait: float | None = None
        while True:
            moving = self._held or self._tapped
            try:
                command = self._inbox.get(timeout=wait) if wait or not moving else self._inbox.get_nowait()
            except queue.Empty:
                wait = None if self._step(walk) else AT_A_WALL
                continue
            wait = None
            if isinstance(command, _End):
                walk.close()
                return
            self._guarded(walk, lambda command=command: self._obey(walk, command))

    def _step(self, walk: Walk) -> bool:
        """Returns whether there was a move to make."""
        keys, at = self._held | self._tapped, self._pressed_at
        self._tapped, self._pressed_at = frozenset(), None
        if not keys:
            return True
        return self._guarded(walk, lambda: walk.step(keys, at))

    def _obey(self, walk: Walk, command: Command) -> bool:
        match command:
            case Keys(down, at):
                new = down - self._held
                self._held, self._tapped = down, self._tapped | new
                self._pressed_at = at if new else self._pressed_at
            case Leave():
                self._released()
                walk.close()
            case Describe(tell):
                if not walk.panes:
                    walk.begin()
                tell(walk.described() | {"walks": saving.saved_walks()})
            case Chunk(keys):
                if not walk.step(keys):
                    raise ValueError(f"a wall leaves no move for {'+'.join(sorted(keys))}")
            case Begin():
                walk.begin()
            case Choose(pane, choice):
                walk.choose(pane, choice)
            case Drop(pane):
                walk.drop(pane)
            case Remember():
                walk.remember()
            case Back(mark):
                walk.back(mark)
            case Forget(mark):
                walk.forget(mark)
            case Save(name):
                walk.tell({"type": "busy", "text": "saving: scores of revisits, videos, sessions"})
                folder = saving.save(walk, name)
                walk.tell({"type": "saved", "folder": str(folder), "name": folder.name, "walks": saving.saved_walks()})
            case Open(name):
                saving.reopen(walk, saving.FOLDER / saving.folder_name(name))
        return True

    def _guarded(self, walk: Walk, act: Callable[[], bool]) -> bool:
        """An error is told to the pages, and the keys are let go."""
        try:
            return act()
        except Exception as error:
            if not isinstance(error, ValueError | OSError | FloatingPointError | RuntimeError):
                log.exception("unexpected")
            self._released()
            walk.tell({"type": "error", "text": str(error) or type(error).__name__, "broken": walk.broken})
            return True

    def _released(self) -> None:
        self._held = self._tapped = frozenset()

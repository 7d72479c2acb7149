"""Sessions that take turns on one backbone: it holds the state of one of them at a time, the others keep theirs until their next step."""

import weakref

from harness.backbone import Backbone
from harness.trajectory import Trajectory


class Turn:
    """A session's place at its backbone. alive: whether the session can go on. state: what the backbone is to hold for it, while it serves another;
    None: it holds it already, or is yet to begin."""

    def __init__(self, backbone: Backbone, state: dict | None = None) -> None:
        self._backbone, self.state, self.alive = backbone, state, True

    def begin(self, path: Trajectory) -> None:
        """Let the backbone begin a path for this session. Raises what the backbone does, which then holds nobody's state."""
        _leave(self._backbone, None)
        self._backbone.user = None
        self._backbone.begin(path)
        self._backbone.user = weakref.ref(self)

    def take(self, path: Trajectory) -> None:
        """Let the backbone hold this session's state; the session that used it last keeps its own."""
        if not _leave(self._backbone, self):
            return
        if self.state is None:
            self._backbone.begin(path)
        else:
            state, self.state = self.state, None  # a copy that nobody needs takes memory
            self._backbone.restore(state)
        self._backbone.user = weakref.ref(self)


def _leave(backbone: Backbone, coming: Turn | None) -> bool:
    """Let the session that the backbone holds the state of keep it, if it can still go on. Returns whether it is another one than `coming`."""
    holder = backbone.user and backbone.user()
    if holder is not None and holder is not coming and holder.alive:
        holder.state = backbone.state()
    return holder is None or holder is not coming

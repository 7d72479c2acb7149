"""The page table: which frames are remembered, how many rows each has, where they are, and what moving them costs."""

from jaxtyping import Int
from torch import Tensor

from harness.page import Page
from harness.stores import Store
from harness.types import KV, Chunk, Geometry


class KVBank:
    """Frames over two tiers: the window (the context buffer) and one store below it.

    With rotated keys a page that is in the window is not stored a second time; it moves below when a plan leaves it out.
    A page that a plan brings back is a working copy: the store keeps its own, so that leaving again costs nothing.
    With raw keys (un-rotated) the store holds every page and the window only working copies.
    """

    def __init__(self, geometry: Geometry, window: Store, below: Store, raw_keys: bool) -> None:
        self.geometry, self.raw_keys = geometry, raw_keys
        self._window, self._below = window, below
        self._rows: dict[int, int] = {}
        self._held: dict[int, float] = {}
        self.bytes_moved = 0
        below.reset(geometry.device)

    @property
    def frames(self) -> list[int]:
        """Every remembered frame, oldest first."""
        return sorted(self._rows)

    def rows(self, frame: int) -> int:
        """Rows a layer stores of `frame`; 0 for a frame that was dropped or never was."""
        return self._rows.get(frame, 0)

    def held(self, frame: int) -> float:
        """Rows of `frame` that the average head holds: `rows` unless some are absent."""
        return self._held.get(frame, self.rows(frame))

    def nbytes(self, tier: str) -> int:
        """Bytes in a tier, the window not included."""
        return self._below.nbytes if self._below.tier == tier else 0

    def append(self, chunk: Chunk, kv: KV) -> None:
        """Remember a chunk's frames. Rotated keys stay where the seam wrote them, at the tail of the window."""
        rows = self.geometry.tokens
        for i, frame in enumerate(chunk.frames):
            part = slice(i * rows, (i + 1) * rows)
            positions = kv.positions[part].expand(self.geometry.layers, -1, -1)
            page = Page((kv.k_raw if self.raw_keys else kv.k)[:, :, part], kv.v[:, :, part], positions)
            self._rows[frame] = rows
            self._window.put(frame, page)
            if self.raw_keys:
                self._store(frame, Page(page.k.clone(), page.v.clone(), positions))

    def replace(self, frames: tuple[int, ...], rows: Int[Tensor, "l n *h"], into: Int[Tensor, "l m *h"] | None = None) -> None:
        """Keep only `rows` of the concatenated rows of `frames` from now on, as one page under the first of them.

        Layers and heads may keep different rows, and fewer of them where `rows` is filled up with -1. The full forms leave the
        window. into: which of the kept rows each row is merged into (see `Page.merge`); without it the others are lost.
        """
        page = Page.joined([self.page(frame) for frame in frames])
        page = page.keep(rows) if into is None else page.merge(rows, into)
        for frame in frames[1:]:
            self.drop(frame)
        self.write(frames[0], page)

    def write(self, frame: int, page: Page) -> None:
        """Keep `page` as the stored form of a remembered frame; the old one is gone from every tier."""
        self.drop(frame)
        self._store(frame, page)
        self._rows[frame] = page.rows
        if (present := page.present) is not None:
            self._held[frame] = int(present.sum()) / (present.shape[0] * present.shape[2])  # exact: budgets compare with it

    def drop(self, frame: int) -> None:
        """Forget a frame in every tier."""
        self._window.drop(frame)
        self._below.drop(frame)
        del self._rows[frame]
        self._held.pop(frame, None)

    def demote(self, frame: int) -> None:
        """Called when a plan leaves out a frame that is in the window: move it below unless a copy is there."""
        if frame in self._rows and frame not in self._below.frames():
            self._store(frame, self._window.get(frame))
        self._window.drop(frame)

    def page(self, frame: int) -> Page:
        """The stored form of a frame on the backbone's device; reading below the window counts as a transfer."""
        if frame in self._below.frames():
            self.bytes_moved += self._below.size(frame)
            return self._below.get(frame)
        return self._window.get(frame)

    def _store(self, frame: int, page: Page) -> None:
        self._below.put(frame, page)
        self.bytes_moved += self._below.size(frame)

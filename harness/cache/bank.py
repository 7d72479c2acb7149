"""The page table: which frames are remembered, how many rows each has, where they are, and what moving them costs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.cache.codecs import Codec, Packed
from harness.cache.page import Page
from harness.cache.stores import PackedStore, Store
from harness.datatypes import KV, Chunk, Geometry, Plan


class KVBank:
    """Frames over the window (the context buffer) and the store below it, which may have several tiers.

    With rotated keys a page that is in the window is not stored a second time; it moves below when a plan leaves it out.
    A page that a plan brings back is a working copy: the store keeps its own, so that leaving again costs nothing.
    With raw keys (un-rotated) the store holds every page and the window only working copies.
    """

    def __init__(
        self, geometry: Geometry, window: Store, below: PackedStore, raw_keys: bool, codec: Codec | None = None, state: Callable[[], int] = lambda: 0
    ) -> None:
        """state: bytes that the backbone keeps besides K/V."""
        self.geometry, self.raw_keys, self._state = geometry, raw_keys, state
        self._window, self._below = window, below
        self._codec = codec or below.codec
        self._rows: dict[int, int] = {}
        self._latents: dict[int, Tensor] = {}  # frame -> `b s c`, of frames that can be encoded again
        self._latents_tier = "cpu" if below.tier == "cpu" else "gpu"
        self._moved = 0
        self._held: dict[int, float] = {}  # frame -> rows that the average head holds, where some are absent
        below.reset(geometry.device)

    @property
    def frames(self) -> list[int]:
        """Every remembered frame, oldest first."""
        return sorted(self._rows.keys() | self._latents.keys())

    def rows(self, frame: int) -> int:
        """Rows a layer stores of `frame`, or has of it once it is encoded again; 0 for a frame that was dropped or never was."""
        return self._rows.get(frame, self.geometry.tokens if frame in self._latents else 0)

    def size(self, frame: int) -> int:
        """Bytes that remembering a frame takes, its working copy in the window not counted."""
        where = self._below if frame in self._below.frames() else self._window
        rows = where.size(frame) if frame in self._rows else 0
        return rows + (self._latents[frame].nbytes if frame in self._latents else 0)

    def held(self, frame: int) -> float:
        """Rows of `frame` that the average head holds: `rows` unless some are absent."""
        return self._held.get(frame, self.rows(frame))

    def nbytes(self, tier: str) -> int:
        """Bytes in a tier, the window not included."""
        latents = sum(x.nbytes for x in self._latents.values()) if tier == self._latents_tier else 0
        return self._below.bytes_in(tier) + latents

    @property
    def stored_bytes(self) -> int:
        """All that a session stores but its policy's scratch: the window's rows in use, pages and latents in every tier, twice what lies twice,
        and the backbone's state. Copies that a store fetches ahead are not counted: they come and go with time, and a policy that keeps to
        a limit must not depend on it."""
        latents = sum(x.nbytes for x in self._latents.values())
        return self._window.bytes_in("window") + self._below.nbytes + latents + self._state()

    @property
    def bytes_moved(self) -> int:
        """Bytes moved so far between window, tiers and devices."""
        return self._moved + self._below.moved

    def placed(self, plan: Plan) -> tuple[dict[int, float | None], dict[int, int]]:
        """Where a plan places each frame (None: its own position, where its keys need not be rotated again), and its rows."""
        times = dict.fromkeys(plan.frames) | {f: t for f, t in zip(plan.frames, plan.times or (), strict=False) if t != f}
        return times, {f: plan.rows[f].shape[1] if f in plan.rows else self.rows(f) for f in plan.frames}

    def prefetch(self, frames: Sequence[int]) -> None:
        """The next chunk's window will load these frames, in this order: the store may fetch them meanwhile."""
        self._below.ahead([f for f in frames if f in self._below.frames()])

    def append(self, chunk: Chunk, kv: KV) -> None:
        """Remember a chunk's frames. Rotated keys stay where the seam wrote them, at the tail of the window."""
        for frame, page in self.adopt(chunk, kv).items():
            self._rows[frame] = page.rows
            if self.raw_keys:
                self._store(frame, Page(page.k.clone(), page.v.clone(), page.positions))

    def adopt(self, chunk: Chunk, kv: KV) -> dict[int, Page]:
        """Leave a chunk's rows in the window, where the seam wrote them. On its own, for frames that were encoded again: these
        rows are not stored, and gone when a plan leaves them out or places them elsewhere."""
        pages, rows = {}, self.geometry.tokens
        for i, frame in enumerate(chunk.frames):
            part = slice(i * rows, (i + 1) * rows)
            positions = kv.positions[part].expand(self.geometry.layers, -1, -1)
            pages[frame] = Page((kv.k_raw if self.raw_keys else kv.k)[:, :, part], kv.v[:, :, part], positions)
            self._window.put(frame, pages[frame])
        return pages

    def note(self, chunk: Chunk, kv: KV) -> None:
        """Keep the latents of a chunk's remembered frames beside their rows; they take bytes of the store's tier from here on."""
        if kv.latents is None:
            raise ValueError(f"chunk {chunk.index}: nothing to note, its K/V came without latents; pass them to `chunk_kv`")
        device = "cpu" if self._latents_tier == "cpu" else kv.latents.device
        for frame, x in zip(chunk.frames, kv.latents.unbind(1), strict=True):
            if frame in self._rows:
                self._latents[frame] = x.to(device, copy=True)
                self._moved += x.nbytes

    def strip(self, frame: int) -> None:
        """Forget a frame's rows in every tier and keep its latents alone."""
        if frame not in self._latents:
            raise ValueError(f"frame {frame} cannot lose its rows, it has nothing else: note its chunk first")
        self._forget_rows(frame)

    def bare(self, frame: int) -> bool:
        """Whether a remembered frame has only latents, so that it must be encoded again for a plan that names it."""
        return frame in self._latents and frame not in self._rows

    def latents(self, chunk: Chunk) -> Float[Tensor, "b f s c"]:
        """The noted latents of a chunk, on the backbone's device; a transfer."""
        x = torch.stack([self._latents[f] for f in chunk.frames], 1)
        self._moved += x.nbytes
        return x.to(self.geometry.device)

    def replace(self, frames: tuple[int, ...], rows: Int[Tensor, "l n *h"], into: Int[Tensor, "l m *h"] | None = None) -> None:
        """Keep only `rows` of the concatenated rows of `frames` from now on, as one page under the first of them.

        Layers and heads may keep different rows, and fewer of them where `rows` is filled up with -1. The full forms leave the
        window; of frames that keep no row nothing is remembered. into: which of the kept rows each row is merged into (see `Page.merge`); without it the
        others are lost."""
        if not rows.shape[1]:
            for frame in frames:
                self.drop(frame)
            return
        page = Page.joined([self.page(frame) for frame in frames])
        page = page.keep(rows) if into is None else page.merge(rows, into)
        for frame in frames[1:]:
            self.drop(frame)
        self.write(frames[0], page)

    def write(self, frame: int, page: Page) -> None:
        """Keep `page` as the stored form of a remembered frame; the old one is gone from every tier."""
        self._forget_rows(frame)
        self._store(frame, page)
        self._rows[frame] = page.rows
        self._note_absent(frame, page.present)

    def _note_absent(self, frame: int, present: Bool[Tensor, "l n h"] | None) -> None:
        if present is not None:
            self._held[frame] = int(present.sum()) / (present.shape[0] * present.shape[2])  # exact: budgets compare with it

    def drop(self, frame: int) -> None:
        """Forget a frame in every tier."""
        if not self.rows(frame):
            raise KeyError(frame)
        self._latents.pop(frame, None)
        self._forget_rows(frame)

    def _forget_rows(self, frame: int) -> None:
        self._window.drop(frame)
        self._below.drop(frame)
        self._rows.pop(frame, None)
        self._held.pop(frame, None)

    def demote(self, frame: int) -> None:
        """Called when a plan leaves out a frame that is in the window: move it below unless a copy is there."""
        if frame in self._rows and frame not in self._below.frames():
            self._store(frame, self._window.get(frame))
        self._window.drop(frame)

    def page(self, frame: int) -> Page:
        """The stored form of a frame on the backbone's device; reading below the window counts as a transfer."""
        if frame in self._below.frames():
            self._moved += self._below.size(frame)
            return self._codec.unpack(self._below.fetch(frame))
        return self._window.get(frame)

    def part(self, frames: tuple[int, ...], rows: Int[Tensor, "l n *h"]) -> Page:
        """`rows` of the concatenated rows of `frames`, as `Page.keep` gives them. On the backbone's device only these count as moved
        (`Page.taken`); pages that lie elsewhere come whole, and count so."""
        near = [f in self._below.frames() and self._below.tier_of(f) == "gpu" for f in frames]
        pages, totals = [], [self._moved]
        for f in frames:
            pages.append(self.page(f))
            totals.append(self._moved)
        if any(near):
            sizes = torch.tensor([p.rows for p in pages], device=rows.device)
            taken = torch.bincount(torch.bucketize(rows[rows >= 0], sizes.cumsum(0), right=True), minlength=len(pages))
            shares = (taken / (sizes * len(rows) * rows.shape[2:].numel())).tolist()  # of a page's rows in all layers and heads
            moved = [after - before for before, after in pairwise(totals)]
            self._moved = totals[0] + round(sum(n * (share if close else 1) for n, share, close in zip(moved, shares, near, strict=True)))
        return Page.taken(pages, rows)

    @property
    def row_table(self) -> dict[int, int]:
        """Rows by remembered frame. Raises ValueError where frames are remembered by their latents."""
        if self._latents:
            raise ValueError("a session whose past is kept as latents cannot be saved; use a policy that keeps rows, or leave out snapshot.save")
        return dict(self._rows)

    def stored(self) -> Iterator[tuple[int, Packed]]:
        """The pages below the window, oldest first, in the form that they are kept in."""
        return ((frame, self._below.held(frame)) for frame in sorted(self._below.frames()))

    def restore(self, rows: Mapping[int, int], stored: Iterable[tuple[int, Packed]]) -> None:
        """Become a bank that was saved: rows by frame, and its `stored` pages. The window restores itself."""
        self._rows = dict(rows)
        for frame, packed in stored:
            self._below.put_packed(frame, packed.to(self.geometry.device))
            self._note_absent(frame, packed.present)

    def fork(self, window: Store) -> "KVBank":
        """A bank of the same frames over a copy of the window; pages are shared until one side replaces or drops them."""
        twin = copy(self)
        twin._window, twin._below = window, self._below.fork()
        twin._rows, twin._latents, twin._held = dict(self._rows), dict(self._latents), dict(self._held)
        return twin

    def close(self) -> None:
        """The session has ended: give back files and threads of the store."""
        self._below.close()

    def _store(self, frame: int, page: Page) -> None:
        self._below.put_packed(frame, self._codec.pack(page))
        self._moved += self._below.size(frame)

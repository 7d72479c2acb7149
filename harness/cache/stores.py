"""Tiers: where the pages of frames that left the window live. A tier never changes a result; a codec does."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from copy import copy
from math import inf
from pathlib import Path
from typing import Self

import torch

from harness.cache.codecs import Codec, Exact, Packed
from harness.cache.page import Page
from harness.settings.ranges import Limit


class Store(ABC):
    """Pages by latent frame. `tier` names where the bytes are: gpu (the backbone's device, whatever it is), cpu or disk."""

    tier: str

    @abstractmethod
    def put(self, frame: int, page: Page) -> None:
        """Keep a page; replaces an earlier one of the same frame. The store owns the page's memory from here on."""

    @abstractmethod
    def get(self, frame: int) -> Page:
        """The page on the backbone's device. Raises KeyError for a frame that is not here."""

    @abstractmethod
    def size(self, frame: int) -> int:
        """Bytes that a frame takes here."""

    @abstractmethod
    def drop(self, frame: int) -> None: ...

    @abstractmethod
    def frames(self) -> Iterable[int]: ...

    @property
    @abstractmethod
    def nbytes(self) -> int: ...

    @abstractmethod
    def reset(self, device: torch.device) -> None:
        """Forget everything; pages will come from and go to `device`."""

    def tier_of(self, frame: int) -> str:
        """Where the bytes of a frame that is here are."""
        return self.tier

    def bytes_in(self, tier: str) -> int:
        """Bytes in a tier, pages that were fetched ahead and copies on the way included."""
        return self.nbytes if tier == self.tier else 0

    @property
    def moved(self) -> int:
        """Bytes that were moved between this store's own tiers since `reset`."""
        return 0

    def ahead(self, frames: Sequence[int]) -> None:
        """The next plan takes these frames, the most urgent first: a store may fetch them already. Changes no result."""

    def settle(self, folder: Path) -> None:
        """Where files go, if there are any and nobody has said where."""

    def close(self) -> None:
        """The last rollout has ended: give back files and threads."""


class PackedStore(Store):
    """A store whose pages have a form. codec: which; None keeps pages as they are."""

    def __init__(self, codec: Codec | None = None) -> None:
        self.codec = codec or Exact()

    def put(self, frame: int, page: Page) -> None:
        self.put_packed(frame, self.codec.pack(page))

    def get(self, frame: int) -> Page:
        return self.codec.unpack(self.fetch(frame))

    @abstractmethod
    def put_packed(self, frame: int, packed: Packed) -> None:
        """As `put`, for a page that has its form already: moved pages are not coded twice."""

    @abstractmethod
    def held(self, frame: int) -> Packed:
        """The page as it lies here, to be moved elsewhere."""

    @abstractmethod
    def fetch(self, frame: int) -> Packed:
        """The page on the backbone's device."""

    @abstractmethod
    def fork(self) -> Self:
        """A store with the same pages. Their memory is shared until one side replaces or drops them; nothing is copied."""


class _InMemory(PackedStore):
    """The bookkeeping that both memory tiers share."""

    def reset(self, device: torch.device) -> None:
        self._device = device
        self._pages: dict[int, Packed] = {}
        self._nbytes = 0

    def _keep(self, frame: int, page: Packed) -> None:
        self.drop(frame)
        self._pages[frame] = page
        self._nbytes += page.nbytes

    def held(self, frame: int) -> Packed:
        return self._pages[frame]

    def size(self, frame: int) -> int:
        return self._pages[frame].nbytes

    def drop(self, frame: int) -> None:
        old = self._pages.pop(frame, None)
        self._nbytes -= old.nbytes if old is not None else 0

    def frames(self) -> Iterable[int]:
        return self._pages.keys()

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def fork(self) -> Self:
        twin = copy(self)
        twin._pages = dict(self._pages)
        return twin


class GpuStore(_InMemory):
    """Pages stay on the backbone's device."""

    tier = "gpu"

    def put_packed(self, frame: int, packed: Packed) -> None:
        self._keep(frame, packed)

    def fetch(self, frame: int) -> Packed:
        return self._pages[frame]


class PinnedStore(_InMemory):
    """Pages in host memory, pinned where there is a GPU, copied without blocking the stream that computes. They are coded
    and decoded on the backbone's device, so that a codec's bytes are what moves.

    room: bytes on the device for pages that are fetched ahead, on a stream of their own; counted as gpu bytes until they
    are taken. Without a GPU there is nothing to fetch.
    """

    tier = "cpu"

    def __init__(self, codec: Codec | None = None, room: Limit = inf) -> None:
        super().__init__(codec)
        self.room = room

    def reset(self, device: torch.device) -> None:
        super().reset(device)
        self._ready: dict[int, tuple[Packed, torch.cuda.Event]] = {}
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def put_packed(self, frame: int, packed: Packed) -> None:
        if self._side is not None:
            packed = packed.map(lambda x: torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True))
        self._keep(frame, packed)

    def fetch(self, frame: int) -> Packed:
        if frame not in self._ready:
            return self._pages[frame].map(lambda x: x.to(self._device, non_blocking=True))
        packed, copied = self._ready.pop(frame)
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(copied)
        for x in (*packed.k, *packed.v):
            x.record_stream(stream)  # made on the side stream: its memory must outlive what is queued on this one
        return packed

    def ahead(self, frames: Sequence[int]) -> None:
        if self._side is None:
            return
        wanted = within(self.room, frames, self._pages, self.size)
        self._ready = {f: self._ready[f] for f in wanted if f in self._ready}
        self._side.wait_stream(torch.cuda.current_stream(self._device))  # a page may still be on its way down
        with torch.cuda.stream(self._side):
            for frame in [f for f in wanted if f not in self._ready]:
                copy, copied = self._pages[frame].map(lambda x: x.to(self._device, non_blocking=True)), torch.cuda.Event()
                copied.record(self._side)
                self._ready[frame] = (copy, copied)

    def drop(self, frame: int) -> None:
        super().drop(frame)
        self._ready.pop(frame, None)

    def fork(self) -> Self:
        twin = super().fork()
        twin._ready = {}  # what was fetched ahead is the other's
        return twin

    def bytes_in(self, tier: str) -> int:
        return super().bytes_in(tier) + (sum(p.nbytes for p, _ in self._ready.values()) if tier == "gpu" else 0)


def within(room: float, frames: Sequence[int], here: Iterable[int], size) -> list[int]:
    """The first of `frames` that are `here` and together take at most `room` bytes."""
    chosen = []
    for frame in frames:
        if frame in here:
            room -= size(frame)
            if room < 0:
                break
            chosen.append(frame)
    return chosen

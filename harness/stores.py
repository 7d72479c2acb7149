"""Tiers: where the pages of frames that left the window live. A tier never changes a result; a codec does."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch

from harness.codecs import Codec, Exact, Packed
from harness.page import Page


class Store(ABC):
    """Pages by latent frame. `tier` names where the bytes are: gpu (the backbone's device, whatever it is) or cpu."""

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


class _Pages(Store):
    """The bookkeeping that both tiers share. codec: the form of the pages; None keeps them as they are."""

    def __init__(self, codec: Codec | None = None) -> None:
        self._codec = codec or Exact()

    def reset(self, device: torch.device) -> None:
        self._device = device
        self._pages: dict[int, Packed] = {}
        self._nbytes = 0

    def _keep(self, frame: int, page: Packed) -> None:
        self.drop(frame)
        self._pages[frame] = page
        self._nbytes += page.nbytes

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


class GpuStore(_Pages):
    """Pages stay on the backbone's device."""

    tier = "gpu"

    def put(self, frame: int, page: Page) -> None:
        self._keep(frame, self._codec.pack(page))

    def get(self, frame: int) -> Page:
        return self._codec.unpack(self._pages[frame])


class PinnedStore(_Pages):
    """Pages in host memory, pinned where there is a GPU, copied without blocking the stream that computes. They are coded
    and decoded on the backbone's device, so that a codec's bytes are what moves."""

    tier = "cpu"

    def put(self, frame: int, page: Page) -> None:
        packed = self._codec.pack(page)
        if self._device.type == "cuda":
            packed = packed.map(lambda x: torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True))
        self._keep(frame, packed)

    def get(self, frame: int) -> Page:
        return self._codec.unpack(self._pages[frame].map(lambda x: x.to(self._device, non_blocking=True)))

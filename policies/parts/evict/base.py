"""Which chunk a full bank forgets next."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

from harness.datatypes import KV, Chunk, Geometry


class Eviction(ABC):
    """State starts at `reset`; a chunk that is gone leaves nothing behind."""

    def reset(self, geometry: Geometry) -> None:
        """A rollout begins."""

    def observe(self, chunk: Chunk, kv: KV, used: Collection[int]) -> None:
        """A chunk is done. used: itself, and the chunks that its plan named."""

    def gone(self, chunk: int) -> None:
        """A chunk was forgotten, whoever decided that."""

    @abstractmethod
    def next(self, idle: Collection[int]) -> int:
        """The chunk that goes, of those that may: one at least."""


@dataclass
class Oldest(Eviction):
    """The oldest chunk goes: first in, first out."""

    def next(self, idle: Collection[int]) -> int:
        return min(idle)


@dataclass
class Lru(Eviction):
    """The chunk that no plan has used for longest goes, of equals the oldest: the rule of KV caches on servers, LMCache's too."""

    def reset(self, geometry: Geometry) -> None:
        self._used: dict[int, int] = {}  # chunk -> the last chunk whose plan named it

    def observe(self, chunk: Chunk, kv: KV, used: Collection[int]) -> None:
        self._used |= dict.fromkeys(used, chunk.index)

    def gone(self, chunk: int) -> None:
        self._used.pop(chunk, None)

    def next(self, idle: Collection[int]) -> int:
        return min(idle, key=lambda c: (self._used.get(c, -1), c))

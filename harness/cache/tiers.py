"""Tiers under one another, each with a limit in bytes: new pages stay near, the least recently used ones move down."""

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from math import inf
from pathlib import Path
from typing import Self

import torch

from harness.cache.codecs import Codec, Packed
from harness.cache.disk import DiskStore
from harness.cache.stores import GpuStore, PackedStore, PinnedStore

TIERS = ("gpu", "cpu", "disk")
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
AHEAD = 2**30  # bytes of host memory for pages read ahead, where the cpu tier has no limit


class TieredStore(PackedStore):
    """gpu, then pinned cpu, then disk. A page lies in one tier. It enters the first that can make room; room is made by moving
    pages down in the form they have, the least recently used first and those of the next plan last; a
    page that the next plan does not take goes down itself rather than push out one that it takes.

    limits: bytes by tier: a number, a text such as 4GB or 500MiB, null for no limit, 0 for a tier that is not used. They
    hold at every moment, pages that are fetched ahead included: these get a quarter of the tier they are fetched into (of
    the device only where it is a GPU). A page that is read stays where it is, because the window holds it while it is
    used. Raises ValueError when a page fits nowhere: memory is never lost silently. folder, keep: see `DiskStore`.
    """

    tier = "tiered"

    def __init__(
        self, codec: Codec | None = None, limits: Mapping[str, float | str | None] | None = None, folder: str | None = None, keep: bool = False
    ) -> None:
        super().__init__(codec)
        limits = limits or {}
        if unknown := set(limits) - set(TIERS):
            raise ValueError(f"store.limits has no tier {', '.join(sorted(unknown))}; tiers are {', '.join(TIERS)}")
        self.limits = {tier: size_of(limits.get(tier), f"store.limits.{tier}") for tier in TIERS}
        if not any(self.limits.values()):
            raise ValueError("store.limits leaves no tier that may hold a page; give one of gpu, cpu, disk more than 0 bytes")
        self._disk = DiskStore(self.codec, folder, keep, min(_quarter(self.limits["cpu"]), AHEAD))
        self._pinned = PinnedStore(self.codec, _quarter(self.limits["gpu"]))
        stores: dict[str, PackedStore] = {"gpu": GpuStore(self.codec), "cpu": self._pinned, "disk": self._disk}
        self._tiers = [stores[tier] for tier in TIERS if self.limits[tier]]

    def settle(self, folder: Path) -> None:
        self._disk.settle(folder)

    def reset(self, device: torch.device) -> None:
        for store in self._tiers:
            store.reset(device)
        held_back = {"cpu": self._disk.room if self.limits["disk"] else 0, "gpu": self._pinned.room if device.type == "cuda" else 0}
        self._room = [self.limits[s.tier] - held_back.get(s.tier, 0) for s in self._tiers]
        self._where: dict[int, int] = {}  # frame -> its tier
        self._order: list[dict[int, None]] = [{} for _ in self._tiers]  # frames of a tier, least recently used first
        self._planned: dict[int, int] = {}  # frame of the next plan -> its place there
        self._moved = 0

    def put_packed(self, frame: int, packed: Packed) -> None:
        self.drop(frame)
        if not self._enter(0, frame, packed):
            raise ValueError(self._no_room(frame, packed.nbytes))

    def held(self, frame: int) -> Packed:
        return self._tiers[self._where[frame]].held(frame)

    def fetch(self, frame: int) -> Packed:
        level = self._where[frame]
        self._order[level][frame] = self._order[level].pop(frame)
        return self._tiers[level].fetch(frame)

    def ahead(self, frames: Sequence[int]) -> None:
        self._planned = {f: i for i, f in enumerate(frames)}
        for level, store in enumerate(self._tiers):
            store.ahead([f for f in frames if self._where.get(f) == level])

    def drop(self, frame: int) -> None:
        if (level := self._where.pop(frame, None)) is not None:
            self._tiers[level].drop(frame)
            del self._order[level][frame]

    def tier_of(self, frame: int) -> str:
        return self._tiers[self._where[frame]].tier

    def size(self, frame: int) -> int:
        return self._tiers[self._where[frame]].size(frame)

    def frames(self) -> Iterable[int]:
        return self._where.keys()

    @property
    def nbytes(self) -> int:
        return sum(store.nbytes for store in self._tiers)

    def bytes_in(self, tier: str) -> int:
        return sum(store.bytes_in(tier) for store in self._tiers)

    @property
    def moved(self) -> int:
        return self._moved

    def close(self) -> None:
        for store in self._tiers:
            store.close()

    def fork(self) -> Self:
        twin = copy(self)
        twin._tiers = [store.fork() for store in self._tiers]
        twin._where, twin._order, twin._planned = dict(self._where), [dict(order) for order in self._order], {}
        return twin

    def _enter(self, level: int, frame: int, packed: Packed) -> bool:
        """Put a page into the first tier from `level` on that has or can make room. Returns whether there is one."""
        while level < len(self._tiers) and not self._make_room(level, frame, packed.nbytes):
            level += 1
        if level == len(self._tiers):
            return False
        self._tiers[level].put_packed(frame, packed)
        self._where[frame] = level
        self._order[level][frame] = None
        return True

    def _make_room(self, level: int, frame: int, size: int) -> bool:
        store, room = self._tiers[level], self._room[level]
        if size > room:
            return False
        while store.nbytes + size > room:
            victim = self._victim(level)
            if level + 1 == len(self._tiers) or victim in self._planned and frame not in self._planned:
                return False
            packed = store.held(victim)
            if not self._enter(level + 1, victim, packed):  # before it leaves here: a disk that is full must not lose it
                return False
            self._moved += packed.nbytes
            store.drop(victim)
            del self._order[level][victim]
        return True

    def _victim(self, level: int) -> int:
        """The least recently used page that the next plan does not take, or the one that it takes last."""
        order = self._order[level]
        free = next((f for f in order if f not in self._planned), None)
        return max(order, key=self._planned.__getitem__) if free is None else free

    def _no_room(self, frame: int, size: int) -> str:
        held = ", ".join(f"{s.tier} {s.nbytes:,} of {room:,.0f}" for s, room in zip(self._tiers, self._room, strict=True))
        remedy = f"raise store.limits.{self._tiers[-1].tier}, choose a smaller form (store/codec=int4) or a policy that forgets"
        return f"no tier has room for the {size:,} bytes of frame {frame}: {held} bytes for pages are taken, {len(self._where)} pages are stored; {remedy}"


def _quarter(limit: float) -> float:
    return limit if limit == inf else limit // 4  # inf // 4 is NaN


def size_of(value: float | str | None, name: str) -> float:
    """Bytes. Raises ValueError for what is no size."""
    if value is None:
        return inf
    match = re.fullmatch(r"\s*(\d+(?:_\d+)*(?:\.\d+)?(?:e\d+)?)\s*([a-zA-Z]*)\s*", str(value))
    if match is None or match.group(2).lower() not in UNITS:
        raise ValueError(f"{name}={value!r} is no size; give bytes, a number with kB, MB, GB or TB, or null for no limit")
    return float(match.group(1)) * UNITS[match.group(2).lower()]

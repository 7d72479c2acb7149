"""The context buffer: the attention window as one `[context | chunk]` buffer per layer, and the seam of the backbone."""

from collections.abc import Callable, Iterable
from copy import copy

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.cache.attention import Attends, bias_and_groups
from harness.cache.bank import KVBank
from harness.cache.page import Page, rotated
from harness.cache.slots import index, lay_out
from harness.cache.stores import Store
from harness.datatypes import KV, Chunk, Condition, Geometry, Plan, Site

Rotation = Callable[..., Tensor]  # applies RoPE to `... n h d`; out: where to
Rope = Callable[[Float[Tensor, "*l n 3"]], Rotation]


class ContextBuffer(Store):
    """The first tier. Assembled once per chunk; rows that stay at the same position are not touched.

    All layers share one slot map, so a page's rows lie at the same slots in each. Attention does not depend on the order
    of its rows: the chunk takes the hole that an evicted chunk leaves, and nothing slides.
    """

    tier = "window"

    def __init__(self, geometry: Geometry, batch: int, rope: Rope, limit_rows: int) -> None:
        self.geometry, self._rope, self._limit = geometry, rope, limit_rows
        self._shape = (geometry.layers, batch, 0, geometry.heads, geometry.head_dim)
        self.reset(geometry.device)

    def reset(self, device: torch.device) -> None:
        g = self.geometry
        self._k, self._v = (torch.empty(self._shape, dtype=g.dtype, device=device) for _ in range(2))
        self._bias = torch.empty((g.layers, 1, 0), device=device)  # log mass of every row, head by head once heads differ
        self._masses: dict[int, Tensor] = {}  # frame -> log mass `l h|1 n`, where its rows do not all stand for themselves
        self._seen: dict[int, Tensor] = {}  # frame -> which layers and heads attend to it `l h`, if not all
        self._slots: dict[int, np.ndarray] = {}  # frame -> its rows in the buffer
        self._times: dict[int, float | None] = {}  # frame -> temporal position it was rotated at (None: its own)
        self._part: dict[int, Tensor] = {}  # frame -> the part of its stored rows that is here, if not all
        self._positions: dict[int, Tensor] = {}
        self._pools: dict[int, tuple[int, ...]] = {}  # frame -> the frames that its rows are of, if not its own alone
        self._tables: tuple[dict, ...] = (self._slots, self._times, self._positions, self._part, self._masses, self._seen)
        self._tail, self._length = slice(0, 0), 0
        self.rows_rotated = 0

    def assemble(self, plan: Plan, bank: KVBank, chunk: Chunk, condition: Condition, policy: Attends) -> dict[int, int]:
        """Bring the planned pages in, let the others go, find a place for the chunk. Returns the rows taken of each frame.

        Raises ValueError for a plan that names a frame the bank does not have, or that moves rows whose keys are kept
        rotated.
        """
        missing = [f for p in plan.frames for f in plan.pools.get(p, (p,)) if not bank.rows(f)]
        if missing:
            raise ValueError(f"chunk {chunk.index}: the plan attends to frames {missing}, the bank has {bank.frames}; plan only remembered frames")
        if (plan.times is not None or plan.start is not None) and not bank.raw_keys:
            raise ValueError(f"chunk {chunk.index}: the plan places rows anew, but the bank keeps rotated keys; set raw_keys in the policy's reset")
        times, rows = bank.placed(plan)
        for frame in [f for f in self._slots if f not in rows or not self._stays(f, times[f], rows[f], plan)]:
            bank.demote(frame)
        self._lay_out(rows, len(condition.positions))
        self._pools = dict(plan.pools)
        for frame in plan.frames:
            if frame not in self._times:
                page = bank.part(plan.pools.get(frame, (frame,)), plan.rows[frame]) if frame in plan.rows else bank.page(frame)
                if frame in plan.rows:
                    self._part[frame] = plan.rows[frame]
                self._load(frame, page, times[frame], bank.raw_keys)
        self._mark(plan)
        self._begin(plan, chunk, condition, policy)
        return rows

    def absent(self, plan: Plan, bank: KVBank) -> list[int]:
        """Which of the planned frames assembly will load."""
        times, rows = bank.placed(plan)
        coming = [f for f in plan.frames if f not in self._slots or not self._stays(f, times[f], rows[f], plan)]
        return [f for p in coming for f in plan.pools.get(p, (p,))]

    def _stays(self, frame: int, time: float | None, rows: int, plan: Plan) -> bool:
        """Whether the rows of a frame that is here are the planned ones, at their planned position."""
        if self._times[frame] != time or len(self._slots[frame]) != rows or self._pools.get(frame) != plan.pools.get(frame):
            return False
        here, wanted = self._part.get(frame), plan.rows.get(frame)
        return here is wanted or (wanted is not None and here is not None and torch.equal(wanted, here))

    def _lay_out(self, rows: dict[int, int], own: int) -> None:
        """Give every planned frame its slots and the chunk a contiguous run, all within `[0, length)`."""
        layout = lay_out(self._slots, rows, own)
        self._length, self._tail = layout.length, layout.tail
        self._grow(self._length)
        if len(layout.source):
            source, target = torch.from_numpy(layout.source), torch.from_numpy(layout.target)
            for x in (self._k, self._v, self._bias):
                x[:, :, target] = x[:, :, source]
        self._slots.update(layout.slots)

    def _grow(self, rows: int) -> None:
        """Make room: by a quarter at least, so that a growing window is copied rarely, but never beyond the rollout."""
        have = self._k.shape[2]
        if rows > have:
            new = max(rows, min(self._limit, have + have // 4))
            for name in ("_k", "_v", "_bias"):
                old = getattr(self, name)
                grown = old.new_empty((*old.shape[:2], new, *old.shape[3:]))
                grown[:, :, :have] = old
                setattr(self, name, grown)

    def _load(self, frame: int, page: Page, time: float | None, raw: bool) -> None:
        k = page.k
        if raw:
            positions = page.positions.clone()
            if time is not None:
                positions[..., 0] += time - frame
            k = rotated(k, positions, self._rope)
            self.rows_rotated += page.rows
        at = index(self._slots[frame])
        self._k[:, :, at], self._v[:, :, at] = k, page.v
        self._bias[:, :, at] = 0.0
        if page.mass is not None:
            log = page.mass.log()
            self._masses[frame] = log[:, None] if log.dim() == 2 else log.transpose(1, 2)
            self._set_bias(frame, self._masses[frame])
        self._times[frame], self._positions[frame] = time, page.positions

    def _mark(self, plan: Plan) -> None:
        """Shut the frames that a plan shows to some heads only to the others, and open what the last plan had shut."""
        for frame in [f for f in self._seen if f not in plan.seen]:
            del self._seen[frame]
            self._set_bias(frame, self._masses.get(frame, torch.zeros(1, device=self._bias.device)))
        for frame, seen in plan.seen.items():
            self._seen[frame] = seen
            shut = torch.zeros(seen.shape).masked_fill(~seen.cpu(), -torch.inf)[..., None].to(self._bias.device)
            self._set_bias(frame, self._masses.get(frame, torch.zeros(1, device=shut.device)) + shut)

    def _set_bias(self, frame: int, bias: Tensor) -> None:
        if bias.dim() == 3 and bias.shape[1] > self._bias.shape[1]:
            self._bias = self._bias.repeat(1, self.geometry.heads, 1)
        self._bias[:, :, index(self._slots[frame])] = bias

    def _begin(self, plan: Plan, chunk: Chunk, condition: Condition, policy: Attends) -> None:
        positions = condition.positions.clone()
        if plan.start is not None:
            positions[:, 0] += plan.start - chunk.start
        self._own, self._placed = condition.positions, positions
        self._start = plan.start
        self._rotate = self._rope(positions)
        self._policy, self._chunk = policy, chunk.index
        self._raw: list[Tensor] = []
        self._bias[:, :, self._tail] = 0.0
        own = np.split(np.arange(self._tail.start, self._tail.stop), len(chunk.frames))
        self._where = {f: self._slots[f] for f in plan.frames} | dict(zip(chunk.frames, own, strict=True))
        self._sites, self.attended_rows = None, self._length
        if self._masses or self._seen:
            self._sites = [bias_and_groups(bias, self.geometry.heads) for bias in self._bias[..., : self._length]]
            self.attended_rows = round((self._bias[..., : self._length] > -torch.inf).float().mean().item() * self._length)
        self._step, self._clean, self._probe, self._adopted = 0, False, False, 0

    def begin_pass(self, step: int, clean: bool, probe: bool = False) -> None:
        self._step, self._clean, self._probe = step, clean, probe
        self._raw = []

    def kv(self, layer: int, q: Float[Tensor, "b m h d"], k: Float[Tensor, "b m h d"], v: Float[Tensor, "b m h d"]) -> Float[Tensor, "b m h d"]:
        """The seam: rotate q and k, write the tail, attend over [context | chunk]."""
        self._rotate(k, out=self._k[layer][:, self._tail])
        self._v[layer][:, self._tail] = v
        if self._clean:
            self._raw.append(k)
        n = self._length
        bias, groups = self._sites[layer] if self._sites else (None, ())
        told = (bias, groups, self._probe, self._where, q, self._placed, self._rope)
        site = Site(layer, self._step, self._clean, n - k.shape[1], self._chunk, False, *told)
        return self._policy.attend(self._rotate(q), self._k[layer][:, :n], self._v[layer][:, :n], site)

    __call__ = kv  # a backbone is handed the buffer itself

    def cross(self, layer: int, q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], v: Float[Tensor, "b n h d"]) -> Float[Tensor, "b m h d"]:
        return self._policy.attend(q, k, v, Site(layer, self._step, self._clean, 0, self._chunk, cross=True, probe=self._probe))

    def chunk_kv(
        self,
        latents: Float[Tensor, "b f s c"] | None = None,
        guesses: Float[Tensor, "p b f s c"] | None = None,
        points: Callable[[], Float[Tensor, "f r 3"]] | None = None,
    ) -> KV:
        """K/V of the chunk after its clean pass on `latents`; k and v are views of the tail, but for k where the plan numbered positions anew: the window has
        it at those. guesses, points: see `KV`."""
        raw = torch.stack(self._raw)
        k = self._k[:, :, self._tail] if self._start is None else self._rope(self._own)(raw)
        return KV(k, raw, self._v[:, :, self._tail], self._own, latents, guesses, points)

    def put(self, frame: int, page: Page) -> None:
        """Adopt a frame of the chunk whose rows lie at the tail; nothing is copied."""
        at = self._tail.start + self._adopted * page.rows
        self._slots[frame] = np.arange(at, at + page.rows)
        time = None if self._start is None else self._start + self._adopted
        self._times[frame] = None if time == frame else time
        self._positions[frame] = page.positions
        self._adopted += 1

    def get(self, frame: int) -> Page:
        at = index(self._slots[frame])
        return Page(self._k[:, :, at].clone(), self._v[:, :, at].clone(), self._positions[frame])

    def size(self, frame: int) -> int:
        return len(self._slots[frame]) * self.geometry.row_bytes

    def bytes_in(self, tier: str) -> int:
        """Of the rows in use, the chunk's own included; not of what is allocated."""
        return self._length * self.geometry.row_bytes if tier == self.tier else 0

    def drop(self, frame: int) -> None:
        for table in self._tables:
            table.pop(frame, None)

    def frames(self) -> Iterable[int]:
        return self._slots.keys()

    def fork(self) -> "ContextBuffer":
        """A window with the same rows in the same slots, copied."""
        twin = copy(self)
        twin._k, twin._v, twin._bias = (x[:, :, : self._length].clone() for x in (self._k, self._v, self._bias))
        twin._tables = tuple(dict(table) for table in self._tables)
        twin._slots, twin._times, twin._positions, twin._part, twin._masses, twin._seen = twin._tables
        return twin

    def state(self) -> dict:
        """Between chunks: these rows and whose they are. Slots are kept, since their order decides the order of sums."""
        at = np.concatenate([*self._slots.values(), np.empty(0, dtype=np.int64)])
        return {
            "size": self._k.shape[2],
            "at": at,
            "rows": [x[:, :, at] for x in (self._k, self._v, self._bias)],
            "tables": list(self._tables),
            "pools": self._pools,
        }

    def restore(self, state: dict) -> None:
        self.reset(self.geometry.device)
        self._grow(state["size"])
        self._bias = self._bias.repeat(1, state["rows"][2].shape[1], 1)
        for x, rows in zip((self._k, self._v, self._bias), state["rows"], strict=True):
            x[:, :, state["at"]] = rows
        self._pools = state["pools"]
        for table, saved in zip(self._tables, state["tables"], strict=True):
            table |= saved
        self._length = int(state["at"].max()) + 1 if len(state["at"]) else 0

    @property
    def rows(self) -> int:
        """Rows of the window in use, the chunk included."""
        return self._length

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (self._k, self._v, self._bias))  # allocated

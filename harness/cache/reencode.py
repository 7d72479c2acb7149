"""Memory for compute: frames that are remembered by their latents alone get their K/V from one more clean pass."""

from collections.abc import Callable

from harness.backbone import Backbone
from harness.cache.attention import Attends
from harness.cache.bank import KVBank
from harness.cache.context import ContextBuffer
from harness.datatypes import Chunk, Condition, Plan


class Reencoder:
    """Serves the bare frames of a plan, and those that it wants encoded `again`, chunk by chunk in the plan's order.

    A chunk is encoded in the context of what the plan has before it, at the positions that the plan gives it, as if the plan
    were the past. Its rows stay in the window, are stored nowhere, and serve later plans as long as these begin the same up
    to and including the chunk: nothing after it ever influenced it. The time of the passes belongs to assembly.
    """

    def __init__(self, backbone: Backbone, window: ContextBuffer, bank: KVBank) -> None:
        self._backbone, self._window, self._bank = backbone, window, bank
        self._made: dict[int, Plan] = {}  # chunk -> the plan up to it, as it was encoded

    def fork(self, window: ContextBuffer, bank: KVBank) -> "Reencoder":
        """The same for a copy of the window and the bank."""
        twin = Reencoder(self._backbone, window, bank)
        twin._made = dict(self._made)
        return twin

    def serve(self, plan: Plan, policy: Attends, past: Callable[[int], tuple[Chunk, Condition]]) -> None:
        """Make every frame of the plan one that has rows. past: a chunk by its index, and what its passes need.

        Raises ValueError for a chunk of which the plan wants a part, or that it does not place as it was generated, frame by
        frame, and for a backbone whose clean pass must not run twice.
        """
        before, self._made = self._made, {}
        size = self._backbone.geometry.chunk
        for frame in [f for f in self._window.frames() if f // size in before and f // size not in plan.again and not self._bank.bare(f)]:
            self._window.drop(frame)  # the rows that are stored serve again
        for at, frame in enumerate(plan.frames):
            index = frame // size
            if index in self._made or not (self._bank.bare(frame) or index in plan.again):
                continue
            self._check(plan, at, index)
            end = at + size
            self._made[index] = Plan(plan.frames[:end], plan.times and plan.times[:end])
            if before.get(index) != self._made[index]:
                self._encode(*past(index), Plan(plan.frames[:at], plan.times and plan.times[:at], plan.times[at] if plan.times else None), policy)

    def _encode(self, chunk: Chunk, condition: Condition, plan: Plan, policy: Attends) -> None:
        self._window.assemble(plan, self._bank, chunk, condition, policy)
        self._window.begin_pass(len(self._backbone.timesteps), clean=True)
        self._backbone.denoise(self._bank.latents(chunk), 0.0, condition, self._window)
        self._bank.adopt(chunk, self._window.chunk_kv())

    def _check(self, plan: Plan, at: int, index: int) -> None:
        if not self._backbone.repeatable:
            name = type(self._backbone).__name__
            raise ValueError(f"chunk {index} cannot be encoded again: a clean pass of {name} changes more than K/V; use a policy that keeps rows")
        size = self._backbone.geometry.chunk
        frames = plan.frames[at : at + size]
        own = tuple(range(index * size, (index + 1) * size))
        if frames != own or plan.rows.keys() & set(frames) or any(self._bank.rows(f) != self._backbone.geometry.tokens for f in frames):
            asked = f"the plan attends to frames {frames}" + (" in part" if frames == own else "")
            raise ValueError(f"chunk {index} is encoded again as a whole, but {asked}; use no compressor")
        times = plan.times[at : at + size] if plan.times else ()
        if times and times != tuple(times[0] + i for i in range(size)):
            raise ValueError(f"chunk {index} is encoded again at consecutive positions, but the plan places its frames at {times}; use another placement")

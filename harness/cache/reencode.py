"""Memory for compute: frames that are remembered by their latents alone get their K/V from one more clean pass."""

from collections.abc import Sequence

from harness.backbone import Backbone
from harness.cache.attention import Attends
from harness.cache.bank import KVBank
from harness.cache.context import ContextBuffer
from harness.datatypes import Chunk, Plan, Trajectory


class Reencoder:
    """Serves the bare frames of a plan, chunk by chunk in the plan's order.

    A chunk is encoded in the context of what the plan has before it, at the positions that the plan gives it, as if the plan
    were the past. Its rows stay in the window, are stored nowhere, and serve later plans as long as these begin the same up
    to and including the chunk: nothing after it ever influenced it. The time of the passes belongs to assembly.
    """

    def __init__(self, backbone: Backbone, trajectory: Trajectory, chunks: Sequence[Chunk], context: ContextBuffer, bank: KVBank) -> None:
        self._backbone, self._trajectory, self._chunks = backbone, trajectory, chunks
        self._context, self._bank = context, bank
        self._made: dict[int, Plan] = {}  # chunk -> the plan up to it, as it was encoded

    def serve(self, plan: Plan, policy: Attends) -> None:
        """Make every frame of the plan one that has rows.

        Raises ValueError for a chunk of which the plan wants a part, or that it does not place as it was generated, frame by
        frame, and for a backbone whose clean pass must not run twice.
        """
        before, self._made = self._made, {}
        size = self._backbone.geometry.chunk
        for at, frame in enumerate(plan.frames):
            chunk = self._chunks[frame // size]
            if chunk.index in self._made or not self._bank.bare(frame):
                continue
            self._check(plan, at, chunk)
            end = at + size
            self._made[chunk.index] = Plan(plan.frames[:end], plan.times and plan.times[:end])
            if before.get(chunk.index) != self._made[chunk.index]:
                self._encode(chunk, Plan(plan.frames[:at], plan.times and plan.times[:at], plan.times[at] if plan.times else None), policy)

    def _encode(self, chunk: Chunk, plan: Plan, policy: Attends) -> None:
        condition = self._backbone.condition(self._trajectory, chunk)
        self._context.assemble(plan, self._bank, chunk, condition, policy)
        self._context.begin_pass(len(self._backbone.timesteps), clean=True)
        self._backbone.denoise(self._bank.latents(chunk), 0.0, condition, self._context)
        self._bank.adopt(chunk, self._context.chunk_kv())

    def _check(self, plan: Plan, at: int, chunk: Chunk) -> None:
        if not self._backbone.repeatable:
            name = type(self._backbone).__name__
            raise ValueError(f"chunk {chunk.index} cannot be encoded again: a clean pass of {name} changes more than K/V; use a policy that keeps rows")
        frames, size = plan.frames[at : at + len(chunk.frames)], len(chunk.frames)
        if frames != chunk.frames or plan.rows.keys() & set(frames):
            asked = f"the plan attends to frames {frames}" + (" in part" if frames == chunk.frames else "")
            raise ValueError(f"chunk {chunk.index} is encoded again as a whole, but {asked}; use no compressor")
        times = plan.times[at : at + size] if plan.times else ()
        if times and times != tuple(times[0] + i for i in range(size)):
            raise ValueError(f"chunk {chunk.index} is encoded again at consecutive positions, but the plan places its frames at {times}; use another placement")

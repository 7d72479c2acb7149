"""The KV cache of one session: the window, the bank below it, and the clean passes that bring back what has only latents."""

from collections.abc import Callable
from copy import copy

from harness.backbone import Backbone
from harness.cache.attention import Attends
from harness.cache.bank import KVBank
from harness.cache.codecs import Codec
from harness.cache.context import ContextBuffer
from harness.cache.reencode import Reencoder
from harness.cache.stores import PackedStore
from harness.datatypes import Chunk, Condition, Plan

Past = Callable[[int], tuple[Chunk, Condition]]  # an earlier chunk by its index, and what its passes need


class KVCache:
    """What a session opens before a chunk's passes and reads after them.

    limit_rows: rows that the window can ever have, where the length of a rollout is known.
    """

    def __init__(self, backbone: Backbone, store: PackedStore, raw_keys: bool, codec: Codec | None, limit_rows: int) -> None:
        self.window = ContextBuffer(backbone.geometry, 1, backbone.rope, limit_rows)
        self.bank = KVBank(backbone.geometry, self.window, store, raw_keys, codec, lambda: backbone.state_bytes)
        self._reencoder = Reencoder(backbone, self.window, self.bank)

    def prefetch(self, plan: Plan) -> None:
        """Pages that a plan will bring in may start on their way, and after them those that later plans will."""
        here, size = set(self.window.frames()), self.bank.geometry.chunk
        coming = [f for f in self.window.absent(plan, self.bank) if f // size not in plan.again]
        self.bank.prefetch([*coming, *(f for f in plan.soon if f not in here)])

    def reencode(self, plan: Plan, policy: Attends, past: Past) -> None:
        """Give the plan's frames that are remembered by their latents alone their K/V again. Raises ValueError, see `Reencoder`."""
        self._reencoder.serve(plan, policy, past)

    def assemble(self, plan: Plan, chunk: Chunk, condition: Condition, policy: Attends) -> dict[int, int]:
        """Bring the window into the planned form; returns the rows that it took of each frame. Raises ValueError, see `ContextBuffer`."""
        return self.window.assemble(plan, self.bank, chunk, condition, policy)

    def fork(self) -> "KVCache":
        """The same cache for another session: the window's rows are copied, the bank's pages are shared until one side replaces them."""
        twin = copy(self)
        twin.window = self.window.fork()
        twin.bank = self.bank.fork(twin.window)
        twin._reencoder = self._reencoder.fork(twin.window, twin.bank)
        return twin

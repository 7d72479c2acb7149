"""The plug-in: a KV-cache policy decides what a chunk attends to and what is kept of it. Four methods."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from harness.cache.attention import dense
from harness.cache.bank import KVBank
from harness.cache.codecs import Codec
from harness.datatypes import KV, Chunk, Geometry, Plan, Site


class CachePolicy(ABC):
    """Fields of a policy are its hyper-parameters; its state starts at `reset` and ends there.

    raw_keys: whether the bank keeps keys un-rotated, for placements that move rows and for policies that score or merge keys; known after
    `reset`. needs_attention_scores: whether `attend` keeps scores of what it sees, so that no wrapper may show it less. plans_ahead:
    whether a chunk may be planned as soon as the one before it is committed, so that its pages are fetched while that one is decoded;
    False for a policy that looks at something later. probes: whether a chunk's first pass runs once more before it is planned, over the
    window that `plan` gives for the chunk with `probing` set (sink and recent frames), so that `attend` sees the chunk's own queries
    (`site.probe`); the pass counts as one of the chunk's. rehearses: whether chunks that are given run the denoising passes too, each
    from the given latents under its noise, for `KV.guesses`; known after `reset`. pooled: whether one page may hold rows of frames of
    different times. rewritable: whether a wrapper may cut stored pages of this policy, which then finds rows of some heads missing. Both
    are known after `reset`. weighs_bytes: whether what it keeps depends on the bytes of window, bank and state, so that a replay without a model
    would keep something else. rotated_keys: whether it computes with keys as they were rotated when they were stored, so that its rows cannot be placed
    anew. compresses: whether it keeps only a part of a chunk's rows. Both are known after `reset`. tries: whether it plans by what the model would make of
    the true views (`Chunk.trial`): a bound, which nobody can use. codec: the form of banked pages, where the policy has a say in it; None leaves it to the
    store. arm: of a policy that needs weights which were trained for it, which ones; the setting `backbone.arm` follows it. A wrapper's is known after
    `reset`."""

    raw_keys: bool = False
    needs_attention_scores: bool = False
    plans_ahead: bool = True
    probes: bool = False
    rehearses: bool = False
    pooled: bool = False
    rewritable: bool = True
    weighs_bytes: bool = False
    rotated_keys: bool = False
    compresses: bool = False
    tries: bool = False
    codec: Codec | None = None
    arm: str | None = None

    def reset(self, geometry: Geometry) -> None:
        """Forget everything; check the fields against the geometry and raise ValueError naming both and the remedy."""

    @abstractmethod
    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        """What `chunk` attends to. Metadata in, indices out; moves no bytes; deterministic, ties broken by index."""

    def attend(self, q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], v: Float[Tensor, "b n h d"], site: Site) -> Float[Tensor, "b m h d"]:
        """Attention of rotated q over [context | chunk], or over a prompt (`site.cross`). Sparse policies act here and score-keepers look here."""
        return dense(q, k, v, site.bias, site.groups)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        """After the clean pass. May merge, prune or drop; memory counts as saved only when rows really go."""
        bank.append(chunk, kv)


class PolicyWrapper(CachePolicy):
    """A policy around a policy: everything passes through until a subclass overrides it."""

    inner: CachePolicy

    def reset(self, geometry: Geometry) -> None:
        self.inner.reset(geometry)
        self.follow()

    def follow(self) -> None:
        """Take over what the inner policy, which is reset, needs and allows."""
        self.raw_keys, self.needs_attention_scores = self.inner.raw_keys, self.inner.needs_attention_scores
        self.plans_ahead, self.probes, self.rehearses = type(self).plans_ahead and self.inner.plans_ahead, self.inner.probes, self.inner.rehearses
        self.arm = self.arm or self.inner.arm
        self.rotated_keys, self.compresses = self.inner.rotated_keys, self.inner.compresses
        self.weighs_bytes, self.tries = type(self).weighs_bytes or self.inner.weighs_bytes, self.inner.tries
        self.pooled, self.rewritable = type(self).pooled or self.inner.pooled, type(self).rewritable and self.inner.rewritable

    @property
    def codec(self) -> Codec | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.codec

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        return self.inner.plan(chunk, bank)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        return self.inner.attend(q, k, v, site)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        self.inner.commit(chunk, kv, bank)

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

    What the session, wrappers and reports must know of a policy is said by the attributes below, in its class or, where it depends on its fields, from
    `reset` on."""

    # keys
    raw_keys: bool = False
    """The bank keeps keys un-rotated: for placements that move rows, and for policies that score or merge keys."""
    rotated_keys: bool = False
    """It computes with keys as they were rotated when they were stored, so its rows cannot be placed anew."""
    # passes
    needs_attention_scores: bool = False
    """`attend` keeps scores of what it sees, so no wrapper may show it less."""
    probes: bool = False
    """A chunk's first pass runs once more before `plan`, over sink and recent frames (`Chunk.probing`, `Site.probe`), and is counted."""
    rehearses: bool = False
    """Chunks that are given run the denoising passes too, each from the given latents under its noise, for `KV.guesses`."""
    tries: bool = False
    """It plans by what the model would make of the true views (`Chunk.trial`): a bound, which nobody can use."""
    plans_ahead: bool = True
    """The next chunk may be planned while this one is decoded, so that its pages are fetched; not if it looks at something later."""
    # pages
    retrieves: bool = False
    """Its plans say what a selector brought back (`Plan.retrieved`); else no wrapper can tell which chunks are settled."""
    compresses: bool = False
    """It keeps only a part of a chunk's rows."""
    pooled: bool = False
    """A page may hold rows of frames of different times."""
    rewritable: bool = True
    """A wrapper may cut its stored pages, so that it finds rows of some heads missing."""
    weighs_bytes: bool = False
    """What it keeps depends on bytes of window, bank and state: a replay without a model would keep something else."""
    codec: Codec | None = None
    """The form of banked pages, where it has a say in it; None leaves it to the store."""
    # weights
    arm: str | None = None
    """Which arm's weights it needs; the setting `backbone.arm` follows it."""

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
        self.retrieves = type(self).retrieves or self.inner.retrieves
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

"""A scorer says what every row of a pool is worth, head by head; the policy keeps the best and drops the others."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Site


class Scorer(ABC):
    """State starts at `reset`.

    drops: whether rows of low score are lost (`True`), or stay in the bank and are only passed over by the next chunk.
    raw_keys: whether keys must be kept un-rotated; rotated_keys: whether they must not. probes: whether `score` needs the queries of the
    chunk to come, from a pass before planning; rehearses: whether `observe` needs `KV.guesses` of chunks that are given too. All are known
    after `reset`. run: how many rows in a row are worth the same, of every frame; `score` gives one number for each run of them
    (only of scorers that drop nothing).
    """

    drops: bool = True
    raw_keys: bool = False
    rotated_keys: bool = False
    probes: bool = False
    rehearses: bool = False
    run: int = 1

    def reset(self, geometry: Geometry) -> None: ...

    def look(self, q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], site: Site) -> None:
        """Rotated queries and keys of an attention call pass by."""

    def observe(self, chunk: Chunk, kv: KV) -> None:
        """A chunk was generated and is in the bank."""

    @abstractmethod
    def score(self, frames: tuple[int, ...], bank: KVBank) -> Float[Tensor, "l n h"]:
        """The worth of the concatenated rows of `frames`, or of each `run` of them; the greater, the better."""

    @abstractmethod
    def keep(self, frames: tuple[int, ...], rows: Int[Tensor, "l n h"]) -> None:
        """Only `rows` of the concatenated rows of `frames` live on, under the first of them (-1: absent)."""

"""What every chunk of a clip attends to under a policy: its own plans, made as a rollout makes them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from sys import maxsize

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.cache.bank import KVBank
from harness.cache.context import ContextBuffer
from harness.cache.page import Page
from harness.cache.stores import GpuStore
from harness.datatypes import Chunk, Condition, Geometry, Plan
from harness.policy import CachePolicy


@dataclass(frozen=True)
class Window:
    """plan: the policy's. Its rows in the plan's order, `n` of them, are sums of rows of the clip's clean copy: row `target[i]` gets `weight[i]`
    times row `source[i]` (numbered over the clip's frames). positions: where RoPE places them. mass: originals that they stand for; None: one each.
    """

    plan: Plan
    source: Int[Tensor, "m"]
    target: Int[Tensor, "m"]
    weight: Float[Tensor, "m"] | None
    positions: Float[Tensor, "n 3"]
    mass: Float[Tensor, "n"] | None

    @property
    def rows(self) -> int:
        return len(self.positions)


@torch.autocast("cpu", enabled=False)  # a rollout plans in float32, whatever the training's precision
def windows(
    policy: CachePolicy,
    g: Geometry,
    c2w: Float[Tensor, "f 4 4"],
    intrinsics: Float[Tensor, "f 4"],
    positions: Float[Tensor, "f s 3"],
    content: torch.Generator | None = None,
) -> list[Window]:
    """The window of every chunk of a clip. g: the backbone's geometry. positions: of all tokens, as the backbone's conditions have them.
    content: draws keys and latents, so that one can see whether they matter; values alone then say which row they are.

    The policy runs over a bank whose keys and values say which row they are, so that what it stores and brings back is read off them, whatever
    it does with pages. Its choices may depend on poses and on what is stored, not on keys. Raises ValueError for a policy that says they do.
    """
    toy = replace(g, layers=1, heads=1, head_dim=g.tokens, dtype=torch.float32, device=torch.device("cpu"))
    policy.reset(toy)
    if policy.needs_attention_scores or policy.probes or policy.pooled:
        raise ValueError(
            f"{type(policy).__name__} chooses by attention or joins frames, so its windows are not known before training; train with another policy"
        )
    if policy.weighs_bytes or getattr(policy, "unit", "") == "bytes":
        raise ValueError(f"{type(policy).__name__} counts bytes, which the rows of training do not have; train with a policy that counts frames or rows")
    c2w, intrinsics, positions = c2w.cpu(), intrinsics.cpu(), positions.cpu()
    buffer = ContextBuffer(toy, 1, _unturned, maxsize)
    bank = KVBank(toy, buffer, GpuStore(), policy.raw_keys, policy.codec)
    found = []
    for index in range(len(c2w) // g.chunk):
        some = slice(index * g.chunk, (index + 1) * g.chunk)
        chunk = Chunk(index, some.start, c2w[some], intrinsics[some], torch.zeros(g.chunk, 6))
        plan = policy.plan(chunk, bank)
        found.append(_window(plan, bank, g.tokens, content is None))
        own = torch.eye(g.tokens).repeat(g.chunk, 1)[None, :, None]
        buffer.assemble(plan, bank, chunk, Condition(positions[some].flatten(0, 1), ()), policy)
        buffer.begin_pass(0, clean=True)
        keys = own if content is None else torch.randn(own.shape, generator=content)
        buffer.kv(0, own, keys, own)
        latents = torch.zeros(1, g.chunk, g.tokens, 1) if content is None else torch.randn(1, g.chunk, g.tokens, 1, generator=content)
        policy.commit(chunk, buffer.chunk_kv(latents), bank)
    return found


def check_by_place(policy: CachePolicy, g: Geometry, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], positions: Float[Tensor, "f s 3"]) -> None:
    """Raises ValueError for a policy whose windows of a clip change with what is stored: those of training would not be those of a rollout."""
    for seed in range(2):
        drawn = torch.Generator().manual_seed(seed)
        plain, other = windows(policy, g, c2w, intrinsics, positions), windows(policy, g, c2w, intrinsics, positions, drawn)
        if any(a.plan.frames != b.plan.frames or not torch.equal(a.source, b.source) for a, b in zip(plain, other, strict=True)):
            name = type(policy).__name__
            raise ValueError(f"{name} chooses by keys or latents, so its windows are not known before training; train with one that chooses by place")


def _window(plan: Plan, bank: KVBank, tokens: int, keys: bool) -> Window:
    """Read off the bank's pages."""
    if any(map(bank.bare, plan.frames)):
        raise ValueError("a policy that encodes frames again has no window before it runs; train with one that keeps rows")
    pages = [bank.part((f,), plan.rows[f]) if f in plan.rows else bank.page(f) for f in plan.frames]
    if not pages:
        none = torch.zeros(0, dtype=torch.long)
        return Window(plan, none, none, None, torch.zeros(0, 3), None)
    shifts = [0.0 if t is None else t - f for f, t in bank.placed(plan)[0].items()]
    placed = [torch.cat([p.positions[0, :, :1] + shift, p.positions[0, :, 1:]], 1) for p, shift in zip(pages, shifts, strict=True)]
    starts = torch.tensor([0, *(p.rows for p in pages)]).cumsum(0).tolist()
    parts = [_sums(page, keys) for page in pages]
    source = torch.cat([column + frame * tokens for frame, (_, column, _) in zip(plan.frames, parts, strict=True)])
    target = torch.cat([row + start for start, (row, _, _) in zip(starts, parts, strict=False)])
    weight = torch.cat([w for _, _, w in parts])
    mass = torch.cat([torch.ones(p.rows) if p.mass is None else p.mass[0] for p in pages])
    whole = len(source) == starts[-1] and bool((weight == 1).all())
    return Window(plan, source, target, None if whole else weight, torch.cat(placed), None if bool((mass == 1).all()) else mass)


def _sums(page: Page, keys: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Which originals each row of a page is made of, and with what weights; the same for keys and values. keys: whether they say it too."""
    shares = page.v[0, 0, :, 0]
    assert not keys or torch.equal(shares, page.k[0, 0, :, 0]), "keys are made of other rows than values"
    rows, columns = shares.nonzero().unbind(1)
    return rows, columns, shares[rows, columns]


def _unturned(positions: Tensor) -> Callable[..., Tensor]:
    """A rotation that leaves rows as they are."""
    return lambda x, out=None: x if out is None else out.copy_(x)

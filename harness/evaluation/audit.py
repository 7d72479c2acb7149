"""The substitution audit: what a recall probe shows once the pages that a policy brought back are replaced, and nothing else is. Of a backbone
that remembers in a state of its own (`Backbone.remembers`), that state.

A policy may gain from more tokens, from their style or from their mere presence. Only where the right pages beat wrong ones is the gain memory.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from harness.backbone import Backbone
from harness.cache.bank import KVBank
from harness.cache.codecs import Codec
from harness.cache.page import Page
from harness.cache.stores import PinnedStore
from harness.datatypes import Chunk, Geometry, Plan
from harness.policy import CachePolicy, PolicyWrapper
from harness.session import Session
from harness.trajectory import Trajectory
from harness.worlds.poses import distances

SHOWS = 0.1  # a page is wrong where it shows less of the view than this; where the world has no truth,
FAR = 3.0  # where it was seen from so many metres away, a right angle counting as much

Substitute = Callable[[Plan, Chunk, KVBank], Plan]


class DoesNotApply(Exception):
    """Why pages cannot be replaced in this way, for whoever reads the results."""


class SubstitutedPolicy(PolicyWrapper):
    """A policy in the middle of a rollout, whose plans are changed before anything is assembled. It serves one chunk of a fork."""

    plans_ahead = False

    def __init__(self, inner: CachePolicy, substitute: Substitute) -> None:
        self.inner, self._substitute = inner, substitute
        self.follow()

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        plan = super().plan(chunk, bank)
        return plan if chunk.probing else self._substitute(plan, chunk, bank)


class Others(NamedTuple):
    """What a policy and a backbone keep of another trajectory: pages by frame, in host memory, and the state of a backbone that remembers."""

    pages: Sequence[tuple[int, Page]] = ()
    state: dict | None = None


@dataclass(frozen=True)
class Auditor:
    """arms: which replacements there are, see `substitutes`. others: of another trajectory; why: there are none. blank: the state of a
    backbone that remembers and has seen nothing; None of one that does not."""

    arms: Sequence[str] = ()
    others: Others = Others()
    why: str = ""
    blank: dict | None = None

    def substitutes(self, path: Trajectory) -> Iterator[tuple[str, Substitute]]:
        """By arm. path: of the session, which says where its frames were seen.

        wrong: as many other pages of the walk, that show nothing of the view. other: pages of another house, as the same policy keeps them. mean:
        every row is the mean of all rows that were brought back. none: the plan without them.

        Of a backbone that remembers: `other` and `none`, for its state (`state`) and what the policy retrieved, if anything.
        """
        known: dict[str, Substitute] = {"wrong": partial(_wrong, path), "other": self._other, "mean": _mean, "none": _none}
        if self.blank is not None:
            missing = partial(_refused, self.why) if self.others.state is None else partial(_retrieved, self._other)
            whole = partial(_refused, "a backbone's state cannot be replaced in parts")
            known = {"wrong": whole, "other": missing, "mean": whole, "none": partial(_retrieved, _none)}
        return ((arm, known[arm]) for arm in self.arms)

    def state(self, arm: str) -> dict | None:
        """What the backbone remembers instead; None: what it does remember."""
        return None if self.blank is None else {"none": self.blank, "other": self.others.state}.get(arm)

    def _other(self, plan: Plan, chunk: Chunk, bank: KVBank) -> Plan:
        pages = self.others.pages
        if not pages:
            raise DoesNotApply(self.why)
        unused = list(pages)
        for frame in _whole(plan, chunk, bank):
            fit = next((i for i, (_, page) in enumerate(unused) if page.rows == bank.rows(frame)), None)
            if fit is None:
                unused, fit = list(pages), next((i for i, (_, page) in enumerate(pages) if page.rows == bank.rows(frame)), None)
            if fit is None:
                raise DoesNotApply("no page of the other house has as many rows")
            theirs, page = unused.pop(fit)
            page = _on(bank.geometry.device, page)
            if bank.raw_keys:  # rotated when they come in, at the place in time that the right ones have
                page.positions[..., 0] += frame - theirs
            bank.write(frame, page)
        return plan


def brought_back(plan: Plan, start: int, size: int) -> tuple[int, ...]:
    """The pages that an audit replaces: those that a selector chose or, where a policy names none, all but those of the first chunk and of the newest."""
    return plan.retrieved or tuple(f for f in plan.frames if size <= f < start - size)


def other_memory(backbone: Backbone, policy: CachePolicy, codec: Codec, path: Trajectory, seed: int, latents: Float[Tensor, "f s c"], chunks: int) -> Others:
    """What is kept of another trajectory by the same policy. latents: what is given of it; at most `chunks` chunks of it run
    their clean passes. Of the pages, first chunk and newest are left out."""
    g = backbone.geometry
    chunks = min(chunks, len(latents) // g.chunk)
    if chunks < 3:
        return Others()
    session = Session.begin(backbone, deepcopy(policy), PinnedStore(codec), path, seed, latents[: chunks * g.chunk], chunks * g.chunk)
    try:
        for _ in range(chunks):
            session.step()
        bank = session.cache.bank
        frames = [f for f in bank.frames if g.chunk <= f < (chunks - 1) * g.chunk and not bank.bare(f)]
        return Others([(f, _on(torch.device("cpu"), bank.page(f))) for f in frames], backbone.state() if backbone.remembers else None)
    finally:
        session.close()


def _on(device: torch.device, page: Page) -> Page:
    """A copy."""
    return Page(*(None if x is None else x.to(device, copy=True) for x in (page.k, page.v, page.positions, page.mass)))  # pyright: ignore[reportArgumentType]


def _replaced(plan: Plan, chunk: Chunk) -> tuple[int, ...]:
    found = brought_back(plan, chunk.start, len(chunk.c2w))
    if not found:
        raise DoesNotApply("the window has no pages but those of the first chunk and of the newest")
    return found


def _whole(plan: Plan, chunk: Chunk, bank: KVBank) -> tuple[int, ...]:
    """The pages to replace, where they are pages: neither latents nor rows that are picked from many."""
    found = _replaced(plan, chunk)
    if any(map(bank.bare, found)):
        raise DoesNotApply("what is brought back is encoded again from latents, there are no pages to replace")
    if plan.pools:
        raise DoesNotApply("rows are picked from many pages together")
    return found


def _refused(why: str, plan: Plan, chunk: Chunk, bank: KVBank) -> Plan:
    raise DoesNotApply(why)


def _retrieved(substitute: Substitute, plan: Plan, chunk: Chunk, bank: KVBank) -> Plan:
    """Of a backbone that remembers: the sink and the newest frames in the window are not what its memory brings back."""
    return substitute(plan, chunk, bank) if plan.retrieved else plan


def _none(plan: Plan, chunk: Chunk, bank: KVBank) -> Plan:
    gone = set(_replaced(plan, chunk))
    at = [i for i, f in enumerate(plan.frames) if f not in gone]
    return replace(
        plan,
        frames=tuple(plan.frames[i] for i in at),
        times=None if plan.times is None else tuple(plan.times[i] for i in at),
        retrieved=(),
        **{name: {f: x for f, x in getattr(plan, name).items() if f not in gone} for name in ("rows", "pools", "seen")},
    )


def _mean(plan: Plan, chunk: Chunk, bank: KVBank) -> Plan:
    pages = {f: bank.page(f) for f in _whole(plan, chunk, bank)}
    all_rows = Page.joined(list(pages.values()))
    weight = torch.ones(1, 1, all_rows.rows, 1, 1, device=all_rows.k.device)
    if all_rows.mass is not None:  # absent rows hold zeros
        there = (all_rows.mass > 0).float()
        weight = (there if there.dim() == 3 else there[..., None])[:, None, :, :, None]
    k, v = (((x.float() * weight).sum(2, keepdim=True) / weight.sum(2, keepdim=True).clamp(min=1)).to(x.dtype) for x in (all_rows.k, all_rows.v))
    for frame, page in pages.items():
        bank.write(frame, replace(page, k=k.expand_as(page.k).clone(), v=v.expand_as(page.v).clone()))
    return plan


def _wrong(path: Trajectory, plan: Plan, chunk: Chunk, bank: KVBank) -> Plan:
    right = _replaced(plan, chunk)
    if plan.pools:
        raise DoesNotApply("rows are picked from many pages together")
    size, strangers = bank.geometry.chunk, _strangers(path, bank.geometry, chunk)
    free = [f for f in strangers if bank.rows(f) and f not in plan.frames and size <= f < chunk.start - size]
    others = _by_chunk(free, size)
    instead: dict[int, int] = {}
    for pages in _by_chunk(right, size).values():  # chunk for chunk, page for page of as many rows
        form = [(f % size, bank.rows(f)) for f in pages]
        fit = next((c for c, found in others.items() if form == [(f % size, bank.rows(f)) for f in found]), None)
        if fit is not None:
            instead |= dict(zip(pages, others.pop(fit), strict=True))
    if len(instead) < len(right):  # fewer would be another comparison, of more tokens with less
        raise DoesNotApply("the bank has too few other pages that show nothing of the view")
    return replace(
        plan,
        frames=tuple(instead.get(f, f) for f in plan.frames),
        retrieved=tuple(instead.values()),
        **{name: {instead.get(f, f): x for f, x in getattr(plan, name).items()} for name in ("rows", "seen")},
    )


def _by_chunk(frames: Sequence[int], size: int) -> dict[int, list[int]]:
    """Frames of the same chunk together, in order; the chunks by their first."""
    found: dict[int, list[int]] = {}
    for frame in frames:
        found.setdefault(frame // size, []).append(frame)
    return {c: sorted(some) for c, some in found.items()}


def _strangers(path: Trajectory, g: Geometry, chunk: Chunk) -> list[int]:
    """Past frames that show nothing of the chunk's views, those that show the least first. By true co-visibility or, in worlds without a truth, by distance."""
    if chunk.overlap is not None:
        shares = chunk.overlap[:, : chunk.start].amax(0)
        order = shares.argsort(stable=True)
        return order[shares[order] < SHOWS].tolist()
    past = path.c2w[: g.frames_px(chunk.start) : g.stride_px]
    far, turned = distances(past, chunk.c2w)
    away = (far + turned * FAR / 90).amin(1)
    order = away.argsort(descending=True, stable=True)
    return order[away[order] > FAR].tolist()

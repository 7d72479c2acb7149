"""A world that is generated chunk by chunk under a KV-cache policy: what a rollout loops over, and what one steps through by hand.

session = Session.begin(backbone, policy, store, Trajectory.start(images, intrinsics), seed=0, forced=backbone.encode(images))
frames, stats = session.step()                  # the next chunk of the path that is known
frames, stats = session.step(c2w=poses)         # or a chunk along these poses
other = session.fork()                          # a second future from here on
"""

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from sys import maxsize

import torch
from jaxtyping import Float
from torch import Tensor

from harness.backbone import Backbone
from harness.cache.account import Account
from harness.cache.kv_cache import KVCache
from harness.cache.scratch import scratch_bytes
from harness.cache.stores import PackedStore
from harness.cache.trial import Trial
from harness.datatypes import Chunk, Condition, Plan
from harness.outcome import ChunkStats, Rollout
from harness.passes import generator, latents_of
from harness.policy import CachePolicy
from harness.snapshot.saved_state import check_state, put_back, state_of_session
from harness.snapshot.snapshot import check_same_path, damaged, read_snapshot, write_snapshot
from harness.system.frame_buffer import FrameBuffer
from harness.trajectory import Overlap, Trajectory
from harness.turns import Turn
from harness.worlds.chunks import chunk_at, chunk_count, led_back, led_on, shown_at, true_views

TRACED = 1500  # latent frames; the trace of every past frame at every chunk grows with their square


class Session:
    """done: chunks so far. path: where the camera was and, as far as it is known, where it goes. noise: fingerprint of all the
    noise that was drawn. coming: the plan of the next chunk, where it was made ahead. Made by `begin`, `fork` or `harness.snapshot`."""

    def __init__(self, backbone: Backbone, policy: CachePolicy, cache: KVCache, path: Trajectory, seed: int, forced: Tensor, frames: int | None) -> None:
        g = backbone.geometry
        self.backbone, self.policy, self.cache, self.path, self.seed, self.forced = backbone, policy, cache, path, seed, forced
        self.frames, self.latents = FrameBuffer(g.frames_px(frames or 0)), FrameBuffer(frames or 0)
        self.stats: list[ChunkStats] = []
        self.noise, self.done = "", 0
        self._limit = (frames or maxsize) // g.chunk  # chunks that there will be
        self._traced = frames is None or frames <= TRACED
        self._account = Account(g.device)
        self.coming: Plan | None = None
        self._closed = False
        self.turn = Turn(backbone)  # not alive while a chunk is being made: what failed in the middle cannot go on

    @classmethod
    def begin(
        cls,
        backbone: Backbone,
        policy: CachePolicy,
        store: PackedStore,
        path: Trajectory,
        seed: int,
        forced: Float[Tensor, "f s c"] | None = None,
        frames: int | None = None,
    ) -> "Session":
        """Start at the beginning of a path, whose images are given. Policy and store forget everything.

        forced: latents of the chunks that are given and only run their clean pass. frames: latent frames that the session will
        have, where that is known: buffers are then taken once. Raises ValueError when path, policy and backbone disagree.
        """
        g = backbone.geometry
        policy.reset(g)
        backbone.check_arm(policy.arm, type(policy).__name__)
        (turn := Turn(backbone)).begin(path)
        cache = KVCache(backbone, store, policy.raw_keys, policy.codec, frames * g.tokens if frames else maxsize)
        session = cls(backbone, policy, cache, path, seed, torch.empty(0) if forced is None else forced, frames)
        session._account.begin()
        session.turn = turn
        return session

    @property
    def known(self) -> int:
        """Whole chunks of the path as far as it is known, or as many as were asked for."""
        return min(self._limit, chunk_count(self.path, self.backbone.geometry))

    @torch.no_grad()
    def step(
        self,
        c2w: Float[Tensor, "p 4 4"] | None = None,
        actions: Float[Tensor, "p 6"] | None = None,
        intrinsics: Float[Tensor, "p 4"] | None = None,
        overlap: Overlap | None = None,
        truth: Float[Tensor, "p 3 y x"] | None = None,
    ) -> tuple[Float[Tensor, "p 3 y x"], ChunkStats]:
        """Generate the next chunk: of the path that is known, or along one pose and action a video frame, which replace what was
        known. intrinsics: those of the last frame unless given. overlap, truth: true co-visibility of the path so led on, and its true views, for
        policies that need them.

        Raises FloatingPointError when the model produces NaN or infinity, ValueError for poses that are no whole chunk.
        """
        self._check_whole("go on")
        if c2w is None and actions is None and not (intrinsics is None and overlap is None and truth is None):
            raise ValueError("step: intrinsics, overlap and truth belong to poses that are given; give c2w or actions too")
        if c2w is not None or actions is not None:
            self.path, self.coming = led_on(self.path, self.backbone.geometry, self.done, c2w, actions, intrinsics, overlap, truth), None
        g, policy, cache, clock = self.backbone.geometry, self.policy, self.cache, self._account.clock
        chunk = self._chunk(self.done)
        self.turn.take(self.path)
        self.turn.alive = False
        stored = tuple(cache.bank.rows(f) for f in range(chunk.start)) if self._traced and chunk.start <= TRACED else None
        self._account.open(cache)
        is_forced = (chunk.index + 1) * g.chunk <= len(self.forced)
        given = self.forced[None, chunk.start : chunk.start + g.chunk].to(g.device, torch.float32) if is_forced else None
        draws = [] if is_forced else self._noise(chunk)
        condition = self.backbone.condition(self.path, chunk)
        clock.lap(chunk.index, "passes")  # noise and condition are the network's, whatever the policy
        if policy.probes and chunk.start:
            levels = self.backbone.timesteps  # given latents go in at the least noisy one: a pass at t = 0 would move some backbones' own caches on
            self._probe(chunk, condition, draws[0] if given is None else given, levels[0] if given is None else levels[-1])
        plan = self.coming or self._plan(self._tried(chunk, condition, draws) if policy.tries and draws else chunk)
        self.coming = None
        cache.reencode(plan, policy, self._conditioned)
        taken = cache.assemble(plan, chunk, condition, policy)
        clock.lap(chunk.index, "assemble")
        rehearsal = generator(self.seed, self.path.name, chunk.index) if policy.rehearses else None
        x0, guesses = latents_of(self.backbone, cache.window, draws, given, rehearsal, condition)
        cache.window.begin_pass(len(self.backbone.timesteps), clean=True)
        self.backbone.denoise(x0, 0.0, condition, cache.window)
        clock.lap(chunk.index, "passes")
        kv = cache.window.chunk_kv(x0, guesses, shown_at(self.path, g, chunk.index))
        policy.commit(chunk, replace(kv, given=is_forced, depth=partial(self.backbone.depth, x0)), cache.bank)
        clock.lap(chunk.index, "commit")
        if policy.plans_ahead and not (policy.probes or policy.tries) and chunk.index + 1 < self.known:  # its pages come while this chunk is decoded
            self.coming = self._plan(self._chunk(chunk.index + 1))
        frames = self.backbone.decode(x0[0])
        clock.lap(chunk.index, "decode")
        self._keep(chunk, frames, x0[0])
        self.stats.append(self._account.close(chunk, plan, taken, stored, len(frames), is_forced, cache, self.backbone, scratch_bytes(policy)))
        self.turn.alive = True
        return frames, self.stats[-1]

    def revisit(self, frames: Sequence[int]) -> tuple[Float[Tensor, "p 3 y x"], ChunkStats]:
        """Generate the next chunk at the views of earlier video frames, one a video frame: the camera jumps there. As `step`."""
        self._check_whole("go on")
        self.path, self.coming = led_back(self.path, self.backbone.geometry, self.done, frames), None
        return self.step()

    def fork(self, state: dict | None = None) -> "Session":
        """A second session that goes on from here; neither changes the other by a bit. state: of the backbone, in place of its own.

        The bank's pages are shared until one side replaces them; the window's rows and the policy's state are copied. Raises
        ValueError for a backbone that keeps state between chunks which it cannot hand over.
        """
        self._check_whole("be forked")
        self.turn.take(self.path)
        twin = Session(self.backbone, deepcopy(self.policy), self.cache.fork(), self.path, self.seed, self.forced, None)
        twin.frames, twin.latents = self.frames.fork(), self.latents.fork()
        twin.stats, twin.noise, twin.done, twin._traced = list(self.stats), self.noise, self.done, self._traced
        twin.coming, twin.turn = self.coming, Turn(self.backbone, self.backbone.state() if state is None else state)
        return twin

    def close(self) -> None:
        """Give back the store's files and threads. What was generated stays."""
        self.cache.bank.close()
        self.turn.alive, self._closed = False, True

    def save(self, folder: Path, about: Mapping[str, object] | None = None) -> None:
        """Write all that the next chunk depends on, and what came out so far, to a folder. about: the settings that it belongs to.

        Raises ValueError for a policy or a backbone whose state cannot be saved, OSError when the disk is full.
        """
        self._check_whole("be saved")
        if not self.done:
            raise ValueError(f"{self.path.name}: there is nothing to save before the first chunk; step first")
        self.backbone.geometry.check_alone("a saved session")
        self.turn.take(self.path)
        g, state = self.backbone.geometry, state_of_session(self)
        if g.device.type == "cuda":
            torch.cuda.synchronize(g.device)  # pages may still be on their way to host memory
        write_snapshot(folder, about or {}, g, state, self.cache.bank.stored())

    @classmethod
    def open(
        cls,
        folder: Path,
        backbone: Backbone,
        policy: CachePolicy,
        store: PackedStore,
        path: Trajectory | None = None,
        seed: int | None = None,
        forced: Float[Tensor, "f s c"] | None = None,
        frames: int | None = None,
        about: Mapping[str, object] | None = None,
    ) -> "Session":
        """Go on from a folder that `save` wrote, with a policy and a backbone of the same settings.

        path: a longer one that begins as the saved one did; seed, forced: of the chunks to come; without them the saved ones.
        Raises ValueError for a snapshot that is damaged, of other settings or of another path, OSError for a stored page that is damaged or gone.
        """
        saved = read_snapshot(folder, about or {}, backbone.geometry)
        state = saved.state
        try:
            check_state(state, backbone.geometry)
        except Exception as error:  # noqa: BLE001  (whatever a damaged one leads to)
            raise damaged(folder, error) from error
        if path is not None:
            check_same_path(folder, state["path"], path)
        session = cls.begin(
            backbone,
            policy,
            store,
            state["path"] if path is None else path,
            state["seed"] if seed is None else seed,
            state["forced"] if forced is None else forced,
            frames,
        )
        session.cache.bank.restore(state["rows"], saved.pages)
        try:
            put_back(session, state)
        except Exception as error:  # noqa: BLE001
            raise damaged(folder, error) from error
        return session

    def rollout(self) -> Rollout:
        """What came out so far. Frames of chunks that were given count as not generated."""
        g, video = self.backbone.geometry, self.frames.made
        generated = torch.arange(len(video)) >= g.frames_px(len(self.forced) // g.chunk * g.chunk)
        return Rollout(video, generated, tuple(self.stats), self.noise, self.latents.made)

    def _check_whole(self, wish: str) -> None:
        if self._closed:
            raise ValueError(f"{self.path.name}: the session is closed, so it cannot {wish}; open a snapshot or begin anew")
        if not self.turn.alive:
            raise ValueError(f"{self.path.name}: chunk {self.done} failed half-way, so the session cannot {wish}; open a snapshot or begin anew")

    def _chunk(self, index: int) -> Chunk:
        return chunk_at(self.path, self.backbone.geometry, index)

    def _conditioned(self, index: int) -> tuple[Chunk, Condition]:
        """An earlier chunk, and what its passes need."""
        chunk = self._chunk(index)
        return chunk, self.backbone.condition(self.path, chunk)

    def _plan(self, chunk: Chunk) -> Plan:
        plan = self.policy.plan(chunk, self.cache.bank)
        if (ranks := self.backbone.geometry.ranks).size > 1:
            ranks.check_same(plan.fingerprint(), f"{self.path.name}: the plan of chunk {chunk.index}")
        self._account.clock.lap(chunk.index, "plan")
        self.cache.prefetch(plan)
        return plan

    def _tried(self, chunk: Chunk, condition: Condition, draws: Sequence[Float[Tensor, "1 f s c"]]) -> Chunk:
        """The chunk for an oracle that looks at what a plan would make of it, where the true views are known."""
        truth = true_views(self.path, self.backbone.geometry, chunk.index)
        trial = None if truth is None else Trial(self.backbone, self.cache, self.policy, chunk, condition, draws[0], truth)
        return replace(chunk, trial=trial)

    def _noise(self, chunk: Chunk) -> list[Float[Tensor, "1 f s c"]]:
        """Of every level, drawn before the first pass: a copy to the GPU waits for it."""
        rng = generator(self.seed, self.path.name, chunk.index)
        draws = [self.backbone.noise(rng) for _ in self.backbone.timesteps]
        self.noise = hashlib.sha256(self.noise.encode() + draws[0].cpu().numpy().tobytes()).hexdigest()[:16]
        return draws

    def _probe(self, chunk: Chunk, condition: Condition, x: Float[Tensor, "1 f s c"], t: float) -> None:
        """A pass before the chunk is planned, over the window that the policy gives for it, so that it sees the chunk's own queries."""
        backbone, cache, clock = self.backbone, self.cache, self._account.clock
        sketch = self.policy.plan(replace(chunk, probing=True), cache.bank)
        clock.lap(chunk.index, "plan")
        cache.reencode(sketch, self.policy, self._conditioned)
        cache.assemble(sketch, chunk, condition, self.policy)
        clock.lap(chunk.index, "assemble")
        cache.window.begin_pass(0, clean=False, probe=True)
        backbone.denoise(x, t, condition, cache.window)
        clock.lap(chunk.index, "passes")

    def _keep(self, chunk: Chunk, frames: Float[Tensor, "p 3 y x"], latents: Float[Tensor, "f s c"]) -> None:
        if not torch.isfinite(latents).all():
            raise FloatingPointError(f"{self.path.name}: NaN or infinity in chunk {chunk.index}; check weights and precision")
        self.frames.add(frames)
        self.latents.add(latents.cpu())
        self.done = chunk.index + 1

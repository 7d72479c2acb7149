"""A rollout that shares nothing with the harness's memory: every row ever made, explicit masks and attention matrices in float64."""

import hashlib
from typing import Protocol

import torch

from harness.datatypes import Chunk
from harness.trajectory import Trajectory
from harness.worlds.chunks import chunks_of
from tests.tolerances import SECOND_ROUTE


class Ledger:
    """Every row of the past, layer by layer, and of the last clean pass the queries and the whole attention matrix."""

    def __init__(self, backbone):
        self.backbone, g = backbone, backbone.geometry
        self.layers, self.heads, self.tokens, self.size = g.layers, g.heads, g.tokens, g.chunk
        self.raw, self.k, self.v = ([torch.zeros(0, g.heads, g.head_dim) for _ in range(g.layers)] for _ in range(3))
        self.frame, self.positions = torch.zeros(0, dtype=torch.long), torch.zeros(0, 3)
        self.p, self.q, self.raw_q, self.new = {}, {}, {}, {}
        self.guesses, self.result = [], torch.empty(0)  # of the last chunk: what each pass predicted, and what came out

    def start(self, condition, visible, positions):
        """visible: l h n. positions: None, or where each row stands, l h n 3."""
        self.rotate, self.own, self.visible = self.backbone.rope(condition.positions), condition.positions, visible
        self.past = self.k
        if positions is not None:
            each = range(self.heads)
            self.past = [torch.cat([self.backbone.rope(p[h])(raw[None, :, h : h + 1])[0] for h in each], 1) for raw, p in zip(self.raw, positions, strict=True)]

    def __call__(self, layer, q, k, v):
        self.raw_q[layer] = q[0].double()
        q, rotated = self.rotate(q), self.rotate(k)
        keys = torch.cat([self.past[layer], rotated[0]]).double()
        values = torch.cat([self.v[layer], v[0]]).double()
        logits = torch.einsum("mhd,nhd->hmn", q[0].double(), keys) / q.shape[-1] ** 0.5
        seen = torch.cat([self.visible[layer], torch.ones(self.heads, q.shape[1], dtype=torch.bool)], 1)
        self.p[layer] = logits.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
        self.q[layer], self.new[layer] = q[0].double(), (k[0], rotated[0], v[0])
        return torch.einsum("hmn,nhd->mhd", self.p[layer], values).to(q.dtype)[None]

    def commit(self, chunk: Chunk):
        for store, i in ((self.raw, 0), (self.k, 1), (self.v, 2)):
            for layer in range(self.layers):
                store[layer] = torch.cat([store[layer], self.new[layer][i]])
        self.frame = torch.cat([self.frame, torch.tensor(chunk.frames).repeat_interleave(self.tokens)])
        self.positions = torch.cat([self.positions, self.own])

    def shares(self, layer, head, own=True):
        """What each row, the last chunk's own included, received of the average query; without `own`, of the softmax over the past alone."""
        p = self.p[layer][head]
        if not own:
            p = p.clone()
            p[:, -p.shape[0] :] = 0
            p = p / p.sum(1, keepdim=True)
        return p.mean(0)


class Method(Protocol):
    def visible(self, chunk: Chunk, ledger: Ledger): ...  # l h n
    def positions(self, chunk: Chunk, ledger: Ledger): ...
    def after(self, chunk: Chunk, ledger: Ledger): ...


@torch.no_grad()
def simulate(backbone, trajectory: Trajectory, method: Method, window: tuple[int, int] | None = None, rehearse: bool = False) -> torch.Tensor:
    """Latents of a rollout under a method, seed 0, the first chunk given. window: the sink's and the recent frames of a pass before
    the method decides, whose queries it then finds in the ledger. rehearse: the first chunk runs its passes too, from its latents under noise."""
    ledger, latents = Ledger(backbone), []
    for chunk in chunks_of(trajectory, backbone.geometry):
        condition = backbone.condition(trajectory, chunk)
        x0 = backbone.encode(trajectory.images)[:3][None]
        if chunk.index:
            digest = hashlib.sha256(f"0/{trajectory.name}/{chunk.index}".encode()).digest()
            rng = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            x = torch.randn(x0.shape, generator=rng)
            if window is not None:
                shown = (ledger.frame < window[0]) | (ledger.frame >= chunk.start - window[1])
                ledger.start(condition, shown.expand(ledger.layers, ledger.heads, -1), None)
                backbone.denoise(x, backbone.timesteps[0], condition, ledger)
        ledger.start(condition, method.visible(chunk, ledger), method.positions(chunk, ledger))
        ledger.guesses = []
        if rehearse and not chunk.index:
            rng = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"0/{trajectory.name}/0".encode()).digest()[:7], "big"))
            for t in backbone.timesteps:
                ledger.guesses.append(backbone.denoise((1 - t) * x0 + t * torch.randn(x0.shape, generator=rng), t, condition, ledger)[0])
        if chunk.index:
            for i, t in enumerate(backbone.timesteps):
                x0 = backbone.denoise(x, t, condition, ledger)
                ledger.guesses.append(x0[0])
                if i + 1 < len(backbone.timesteps):
                    t = backbone.timesteps[i + 1]
                    x = (1 - t) * x0 + t * torch.randn(x0.shape, generator=rng)
        backbone.denoise(x0, 0.0, condition, ledger)
        ledger.commit(chunk)
        ledger.result = x0[0]
        method.after(chunk, ledger)
        latents.append(x0[0])
    return torch.cat(latents)


def close(mine, other) -> bool:
    return (mine - other).abs().max() < SECOND_ROUTE * other.abs().max()

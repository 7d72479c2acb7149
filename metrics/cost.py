"""What a rollout cost: frames a second, tokens attended, bytes by tier, and where the time went."""

from typing import TYPE_CHECKING

import numpy as np

from metrics.column import Column

if TYPE_CHECKING:  # who only shows costs need not wait for torch
    from harness.outcome import ChunkStats, Rollout

PARTS = ("plan", "assemble", "passes", "commit", "decode")
MB = 1e-6
COLUMNS = (
    Column("cost/fps_mean", "fps", "FPS", "cost", 1, 1, "video frames over seconds of generated chunks", unit="1/s", rank=2, timed=True),
    Column("cost/fps_last", "fps_last", "FPS last", "cost", 1, 1, "the last chunk's, the figure that papers quote", unit="1/s", rank=6, timed=True),
    Column("cost/latency_p95_ms", "p95", "p95 latency", "cost", 0, -1, "time of a chunk, 95th percentile", unit="ms", rank=6, timed=True),
    Column("cost/bytes_moved", "moved", "moved a chunk", "cost", 2, -1, "bytes between window, tiers and devices", MB, "MB", 6),
    Column("cost/attended_tokens", "tokens", "tokens attended", "memory", 0, -1, "rows of the window, the chunk included, mean over the generated chunks"),
    Column("cost/window_bytes", "window", "window", "memory", 2, -1, "context buffer in use, all layers, largest of the rollout", MB, "MB", 5),
    Column("cost/bank_bytes", "bank", "bank", "memory", 2, -1, "pages below the window, all tiers, at the end of the rollout", MB, "MB", 5),
    Column("cost/stored_bytes", "stored", "stored", "memory", 2, -1, "window, bank, state and scratch together, largest of the rollout", MB, "MB", 2),
    Column("cost/state_bytes", "state", "state", "memory", 2, -1, "what the backbone keeps besides K/V, at the end of the rollout", MB, "MB", 6),
    Column("cost/scratch_bytes", "scratch", "scratch", "memory", 2, -1, "what the policy keeps beside window and bank, largest of the rollout", MB, "MB", 6),
    Column(
        "cost/unreachable_frames",
        "unreachable",
        "unreachable frames",
        "memory",
        1,
        -1,
        "past frames that nothing could reach, mean over the generated chunks",
    ),
    Column("frames", "frames", "frames", "budget", 0, 0, "video frames of a rollout", rank=7),
)


def cost(rollout: "Rollout") -> dict[str, float]:
    """Cost columns of one trajectory, over the generated chunks (forced ones run one pass and would flatter).

    fps_mean: video frames over seconds (so, harmonic over chunks). fps_last: the last chunk's, the paper's figure.
    Seconds include plan, assembly, passes, commit and decode; rendering, metrics and writing are not in them. Bytes: the
    largest over the rollout for window and peak, at the end for the bank, the mean a chunk for bytes moved; `stored_bytes`
    is the largest sum of the four over the chunks: what `capped` limits, pages that are
    fetched ahead apart. share_waited: of the seconds, while other work had the cores. What is counted where a chunk ends: `harness/cache/account.py`.
    """
    chunks = [s for s in rollout.stats if not s.forced]
    if not chunks:
        return {}
    seconds, frames = np.array([s.seconds for s in chunks]), np.array([s.frames_px for s in chunks])
    last, total = chunks[-1], seconds.sum()
    window, bank, scratch = max(s.window_bytes for s in chunks), held(last)["bank_bytes"], max(s.scratch_bytes for s in chunks)
    columns = {
        "fps_mean": frames.sum() / total,
        "fps_last": frames[-1] / seconds[-1],
        "latency_p50_ms": 1e3 * np.percentile(seconds, 50),
        "latency_p95_ms": 1e3 * np.percentile(seconds, 95),
        "attended_tokens": np.mean([s.attended_rows for s in chunks]),
        "attended_tokens_last": last.attended_rows,
        "window_bytes": window,
        "bank_bytes": bank,
        "stored_bytes": max(held(s)["stored_bytes"] for s in chunks),
        "bank_bytes_gpu": last.bank_bytes_gpu,
        "bank_bytes_cpu": last.bank_bytes_cpu,
        "bank_bytes_disk": last.bank_bytes_disk,
        "bytes_moved": np.mean([s.bytes_moved for s in chunks]),
        "rows_rotated": np.mean([s.rows_rotated for s in chunks]),
        "unreachable_frames": np.mean([s.unreachable_frames for s in chunks]),
        "state_bytes": last.state_bytes,
        "scratch_bytes": scratch,
        "peak_bytes": max(s.peak_bytes for s in chunks),
        "peak_bytes_all": max(s.peak_bytes_all for s in chunks),
    }
    columns |= {f"share_{part}": sum(_part(s, part) for s in chunks) / total for part in PARTS}
    columns["share_waited"] = sum(s.seconds_waited for s in chunks) / total
    return {f"cost/{name}": float(value) for name, value in columns.items()}


def held(stats: "ChunkStats") -> dict[str, int]:
    """Bytes of a chunk that are sums: the bank over its tiers, and all that is stored, which is window, bank, the backbone's state and
    scratch: a row that lies in the window and in the bank counts twice, for it lies there twice."""
    bank = stats.bank_bytes_gpu + stats.bank_bytes_cpu + stats.bank_bytes_disk
    return {"bank_bytes": bank, "stored_bytes": stats.window_bytes + bank + stats.state_bytes + stats.scratch_bytes}


def _part(stats: "ChunkStats", part: str) -> float:
    return {
        "plan": stats.seconds_plan,
        "assemble": stats.seconds_assemble,
        "passes": stats.seconds_passes,
        "commit": stats.seconds_commit,
        "decode": stats.seconds_decode,
    }[part]

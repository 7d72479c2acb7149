"""What a rollout cost: frames a second, tokens attended, bytes by tier, and where the time went."""

import numpy as np

from harness.datatypes import ChunkStats, Rollout

PARTS = ("plan", "assemble", "passes", "commit", "decode")


def cost(rollout: Rollout) -> dict[str, float]:
    """Cost columns of one trajectory, over the generated chunks (forced ones run one pass and would flatter).

    fps_mean: video frames over seconds (so, harmonic over chunks). fps_last: the last chunk's, the paper's figure.
    Seconds include plan, assembly, passes, commit and decode; rendering, metrics and writing are not in them. Bytes: the
    largest over the rollout for window and peak, at the end for the bank, the mean a chunk for bytes moved.
    """
    chunks = [s for s in rollout.stats if not s.forced]
    if not chunks:
        return {}
    seconds, frames = np.array([s.seconds for s in chunks]), np.array([s.frames_px for s in chunks])
    last, total = chunks[-1], seconds.sum()
    columns = {
        "fps_mean": frames.sum() / total,
        "fps_last": frames[-1] / seconds[-1],
        "latency_p50_ms": 1e3 * np.percentile(seconds, 50),
        "latency_p95_ms": 1e3 * np.percentile(seconds, 95),
        "attended_tokens": np.mean([s.attended_rows for s in chunks]),
        "attended_tokens_last": last.attended_rows,
        "window_bytes": max(s.window_bytes for s in chunks),
        "bank_bytes": last.bank_bytes_gpu + last.bank_bytes_cpu + last.bank_bytes_disk,
        "bank_bytes_gpu": last.bank_bytes_gpu,
        "bank_bytes_cpu": last.bank_bytes_cpu,
        "bank_bytes_disk": last.bank_bytes_disk,
        "bytes_moved": np.mean([s.bytes_moved for s in chunks]),
        "rows_rotated": np.mean([s.rows_rotated for s in chunks]),
        "unreachable_frames": np.mean([s.unreachable_frames for s in chunks]),
        "state_bytes": last.state_bytes,
        "scratch_bytes": max(s.scratch_bytes for s in chunks),
        "peak_bytes": max(s.peak_bytes for s in chunks),
    }
    columns |= {f"share_{part}": sum(_part(s, part) for s in chunks) / total for part in PARTS}
    return {f"cost/{name}": float(value) for name, value in columns.items()}


def _part(stats: ChunkStats, part: str) -> float:
    return {
        "plan": stats.seconds_plan,
        "assemble": stats.seconds_assemble,
        "passes": stats.seconds_passes,
        "commit": stats.seconds_commit,
        "decode": stats.seconds_decode,
    }[part]

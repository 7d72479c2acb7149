"""What run folders of earlier versions did not write, added as they are read, so that nobody else needs to know of it."""

from collections.abc import Mapping

TIERS = ("gpu", "cpu", "disk")


def with_sums(row: Mapping, prefix: str = "") -> dict:
    """A trajectory's values (prefix "cost/") or a chunk's row with the bytes that are sums: of the bank, and with window, state and scratch."""
    tiers = [row[key] for t in TIERS if (key := f"{prefix}bank_bytes_{t}") in row]
    sums = {}
    if tiers:
        sums[f"{prefix}bank_bytes"] = bank = row.get(f"{prefix}bank_bytes", sum(tiers))
        if f"{prefix}window_bytes" in row:
            sums[f"{prefix}stored_bytes"] = bank + sum(row.get(f"{prefix}{part}_bytes", 0) for part in ("window", "state", "scratch"))
    return sums | dict(row)


def completed_record(record: dict) -> dict:
    """A trajectory's record. The first ones, with one video frame a latent frame, did not say how many video frames a chunk has."""
    chunks = [{"frames_px": row["frames"]} | with_sums(row) if "frames" in row else row for row in record["chunks"]]
    values = with_sums(record["values"], "cost/")
    if chunks and "frames_px" in chunks[0]:
        values = {"frames": float(sum(row["frames_px"] for row in chunks))} | values
    return record | {"chunks": chunks, "values": values}


def completed_summary(summary: dict[str, dict]) -> dict[str, dict]:
    """A summary with the sums' means. Their intervals were not computed."""
    means = {k: v["mean"] for k, v in summary.items()}
    counts = {v["n"] for v in summary.values()} or {0}
    return {k: {"mean": v, "ci95": None, "n": max(counts)} for k, v in with_sums(means, "cost/").items() if k not in summary} | summary

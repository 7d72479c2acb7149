"""The columns of a comparison, once, for the page, the terminal and every other format."""

from dataclasses import dataclass

from harness.results.run_folder import Record


@dataclass(frozen=True)
class Column:
    """key: in a run's summary. name: short, for filters. better: 1 more, -1 less, 0 neither. factor: of the shown unit.

    difference: whether its paired difference to the baseline is shown. about: what it is, in a line.
    """

    key: str
    name: str
    heading: str
    group: str
    decimals: int
    better: int
    about: str
    factor: float = 1.0
    unit: str = ""
    difference: bool = False

    def show(self, value: float, sign: bool = False) -> str:
        return f"{value * self.factor:{'+' if sign else ''}.{self.decimals}f}"


COLUMNS = (
    Column("quality/psnr_revisit", "psnr", "PSNR revisit", "quality", 2, 1, "revisit against first visit of the same rollout", 1, "dB", True),
    Column("quality/ssim_revisit", "ssim", "SSIM revisit", "quality", 3, 1, "revisit against first visit"),
    Column("quality/lpips_revisit", "lpips", "LPIPS revisit", "quality", 3, -1, "revisit against first visit, AlexNet", difference=True),
    Column("quality/psnr_reference", "psnr_true", "PSNR true view", "quality", 2, 1, "revisit against the true view, where the world has one", 1, "dB"),
    Column("quality/contrast", "contrast", "contrast", "quality", 2, 0, "local contrast against the true frames: 1 is as sharp; blur flatters a revisit score"),
    Column("quality/fid", "fid", "FID", "quality", 1, -1, "first visits against revisits, as sets"),
    Column("cost/fps_mean", "fps", "FPS", "cost", 1, 1, "video frames over seconds of generated chunks", 1, "1/s"),
    Column("cost/fps_last", "fps_last", "FPS last", "cost", 1, 1, "the last chunk's, the figure that papers quote", 1, "1/s"),
    Column("cost/latency_p95_ms", "p95", "p95 latency", "cost", 0, -1, "seconds of a chunk, 95th percentile", 1, "ms"),
    Column("cost/bytes_moved", "moved", "moved a chunk", "cost", 2, -1, "bytes between window, tiers and devices", 1e-6, "MB"),
    Column("cost/attended_tokens", "tokens", "tokens attended", "memory", 0, -1, "rows of the window, the chunk included, mean over the rollout"),
    Column("cost/window_bytes", "window", "window", "memory", 2, -1, "context buffer in use, all layers, largest of the rollout", 1e-6, "MB"),
    Column("cost/bank_bytes", "bank", "bank", "memory", 2, -1, "pages below the window, all tiers, at the end of the rollout", 1e-6, "MB"),
    Column("cost/stored_bytes", "stored", "stored", "memory", 2, -1, "window and bank", 1e-6, "MB"),
    Column("cost/unreachable_frames", "lost", "lost frames", "memory", 1, -1, "past frames that nothing could have reached, mean over the rollout"),
    Column("frames", "frames", "frames", "budget", 0, 0, "video frames of a rollout"),
)
SPEED = ("cost/fps_mean", "cost/fps_last", "cost/latency_p95_ms")  # only comparable on one device


def values_of(record: Record) -> dict[str, float]:
    """A trajectory's columns, with those that are sums of others and the length of its rollout."""
    values = dict(record.values)
    tiers = [v for k, v in values.items() if k.startswith("cost/bank_bytes_")]
    if tiers:
        values["cost/bank_bytes"] = sum(tiers)
        values["cost/stored_bytes"] = sum(tiers) + values["cost/window_bytes"]
    if record.chunks:
        values["frames"] = float(sum(frames_px(row) for row in record.chunks))
    return values


def frames_px(row: dict) -> int:
    """Video frames of a chunk; the first folders, with one video frame a latent frame, did not say."""
    return int(row.get("frames_px", row["frames"]))

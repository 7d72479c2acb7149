"""cost.json beside videos: what their makers measured, on their machine; nothing of it was measured here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from harness.reporting.table import EXTERNAL
from harness.worlds.text import read_text

FILE = "cost.json"
COLUMNS = {  # key -> column, both in the column's unit
    "fps": "cost/fps_mean", "fps_last": "cost/fps_last", "latency_p50_ms": "cost/latency_p50_ms", "latency_p95_ms": "cost/latency_p95_ms",
    "attended_tokens": "cost/attended_tokens", "window_bytes": "cost/window_bytes", "bank_bytes": "cost/bank_bytes", "stored_bytes": "cost/stored_bytes",
    "peak_bytes": "cost/peak_bytes",
}  # fmt: skip
SECONDS = "seconds"  # of a whole video: its frames make the frames a second


@dataclass(frozen=True)
class Costs:
    """whole: of every video. clips: of single ones, by name. about: what tables say of the costs. device: what they were measured on."""

    whole: Mapping[str, float]
    clips: Mapping[str, Mapping[str, float]]
    about: str
    device: str

    def of(self, name: str, frames: int) -> dict[str, float]:
        """The cost columns of a video of `frames` frames."""
        own = self.clips.get(name, {})
        said = {**self.whole, **own}
        if SECONDS in said and "fps" not in own and (SECONDS in own or "fps" not in self.whole):  # a video's own figure goes before that of all
            said["fps"] = frames / said[SECONDS]
        return {COLUMNS[k]: float(v) for k, v in said.items() if k != SECONDS}


def read_costs(folder: Path, names: Sequence[str]) -> Costs:
    """FOLDER/cost.json: {"device": "...", "fps": 16.2, ..., "clips": {NAME: {"seconds": 12.0, ...}}}. Raises ValueError that names what is unknown."""
    file = folder / FILE
    if not file.is_file():
        return Costs({}, {}, EXTERNAL, EXTERNAL)
    try:
        said = json.loads(read_text(file))
        clips = said.pop("clips", {})
        device = str(said.pop("device", "a machine that it does not name"))
        entries = {"": said, **clips}
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < inf for entry in entries.values() for v in entry.values())
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f'{file} is no JSON of costs ({error}); write it as {{"device": "H100", "fps": 16.2}}') from error
    if unknown := sorted({k for entry in entries.values() for k in entry} - {*COLUMNS, SECONDS}):
        raise ValueError(f"{file}: unknown {', '.join(unknown)}; use device, clips, {SECONDS}, {', '.join(COLUMNS)}")
    if not numbers:
        raise ValueError(f"{file}: costs are finite numbers above 0")
    if strangers := sorted(set(clips) - set(names)):
        raise ValueError(f"{file}: there is no video {', '.join(strangers[:5])}; there are {', '.join(names[:5])}")
    return Costs(said, clips, f"{EXTERNAL}, but told by {FILE}", f"external: {device}, told by {FILE}")

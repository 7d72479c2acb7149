"""Which settings decide a result, and the run folder that follows from them: the same settings find their results again."""

import hashlib
import json
from pathlib import Path

DECIDES = ("policy", "backbone", "world", "store", "metric", "seed")  # the settings that decide a result


def run_path(settings: dict, policy: str) -> Path:
    """Where an evaluation's results lie: the same settings find them again. policy: its config's name."""
    if settings["run_dir"]:
        return Path(str(settings["run_dir"]))
    return Path("outputs") / str(settings["name"]) / f"{policy}-{config_hash(deciding(settings))}"


def deciding(settings: dict) -> dict:
    """The settings that decide a result. A snapshot does when one is opened, or when a rollout stops early for one; recall probes do
    where there are any, and their audit where there is one."""
    snapshot = {k: v for k, v in settings.get("snapshot", {}).items() if k != "save" and v is not None}
    probes = {k: v for k, v in settings.get("probes", {}).items() if k != "audit" or v} if settings.get("probes", {}).get("count") else {}
    return {k: settings.get(k) for k in DECIDES} | ({"snapshot": snapshot} if snapshot else {}) | ({"probes": probes} if probes else {})


def config_hash(config: dict) -> str:
    """Eight hexadecimal digits of the resolved settings that decide a result."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:8]

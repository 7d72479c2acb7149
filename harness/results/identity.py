"""Which settings decide a result, and the run folder that follows from them: the same settings find their results again."""

import hashlib
import json
from pathlib import Path

DECIDES = ("policy", "backbone", "world", "store", "metric", "seed")  # the settings that decide a result
SHARED = ("backbone", "world", "metric", "seed")  # runs that share these differ by the policy alone, and by an arm's weights


def run_path(settings: dict, policy: str) -> Path:
    """Where an evaluation's results lie: the same settings find them again. policy: its config's name."""
    if settings["run_dir"]:
        return named_path(str(settings["run_dir"]))
    return Path("outputs") / str(settings["name"]) / f"{policy}-{config_hash(deciding(settings))}"


def named_path(folder: str) -> Path:
    """A run folder that somebody names."""
    path = Path(folder)
    return path if path.name not in ("", "..") else path.resolve()  # `.` has no parent of its own


def deciding(settings: dict) -> dict:
    """The settings that decide a result. A snapshot does when one is opened, or when a rollout stops early for one; recall probes do
    where there are any, and their audit where there is one."""
    snapshot = {k: v for k, v in settings.get("snapshot", {}).items() if k != "save" and v is not None}
    probes = {k: v for k, v in settings.get("probes", {}).items() if k != "audit" or v} if settings.get("probes", {}).get("count") else {}
    decides = {k: settings.get(k) for k in DECIDES}
    if decides["backbone"]:
        decides["backbone"] = plain_backbone(decides["backbone"])
    return decides | ({"snapshot": snapshot} if snapshot else {}) | ({"probes": probes} if probes else {})


def plain_backbone(backbone: dict) -> dict:
    """A backbone's settings; no arm is no setting, as before there were any, and by how many ranks a rollout is shared decides nothing."""
    return {k: v for k, v in backbone.items() if k != "parallel" and (k != "arm" or v is not None)}


def comparable(settings: dict, **more: object) -> str:
    """A hash of what runs share that may be compared: the backbone's settings but for the arm, whose weights belong to the memory that is compared.
    more: what else must agree."""
    family = {k: v for k, v in settings["backbone"].items() if k not in ("arm", "parallel")}
    return config_hash({k: settings[k] for k in SHARED} | {"backbone": family} | more)


def config_hash(config: dict) -> str:
    """Eight hexadecimal digits of the resolved settings that decide a result."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:8]

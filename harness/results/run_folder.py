"""The run folder: one atomic file per trajectory while running, one `results.json` and tables at the end."""

import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from harness.results.live import FILE as LIVE
from harness.results.older import completed_summary
from harness.results.recall import recall_curves
from harness.results.record import Record, read_record, say_once
from harness.results.shapes import check_results
from harness.results.statistics import summarise
from harness.results.tables import arrays, write_csv
from harness.system.files import FREE_SPACE, file_name, remove_stale, summed, unsummed, write_atomic, write_bytes, write_once

SCHEMA = 1
OWED = "afterwards.txt"  # what is still to be done for a finished run, a word a line
WEIGHTS = "weights.json"  # digests of the files of weights, by setting
ID = "wandb_id.txt"  # stays when the folder is cleared: the same run, made again


class RunFolder:
    """All paths and files of one run. Nothing here is ever half-written: files appear whole, by rename."""

    FILES = (
        "config.yaml",
        "results.json",
        LIVE,
        OWED,
        WEIGHTS,
        "pairs.csv",
        "chunks.csv",
        "probes.csv",
        "trajectories.jsonl",
        "frames.png",
        "chunks.png",
        "error.txt",
    )
    FOLDERS = ("trajectories", "videos", "wandb", "bank")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records = path / "trajectories"

    def create(self) -> None:
        for name in ("trajectories", "videos"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Remove what a run wrote, and nothing else that may lie there. Raises ValueError for a folder that no run has written."""
        own = (self._records, *(self.path / name for name in ("results.json", LIVE, WEIGHTS, ID, "error.txt", "point.json")))
        if self.path.is_dir() and any(self.path.iterdir()) and not any(map(Path.exists, own)):
            raise ValueError(f"{self.path} is no run folder, and overwrite=true would remove files of these names there; choose another run_dir")
        for name in self.FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in self.FILES:
            (self.path / name).unlink(missing_ok=True)

    def weights(self) -> dict[str, str] | None:
        """The digests that `write_weights` wrote; None in folders from before there were any, and where they are damaged."""
        try:
            found = json.loads((self.path / WEIGHTS).read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write_weights(self, weights: Mapping[str, str]) -> None:
        write_atomic(self.path / WEIGHTS, json.dumps(dict(weights)))

    def begun(self) -> bool:
        """Whether an earlier process began this run, and did not end it."""
        return (self.path / LIVE).exists()

    def settled(self) -> None:
        """All is told: what the run said of itself while it ran is in its tables now."""
        (self.path / LIVE).unlink(missing_ok=True)

    def done(self) -> set[str]:
        """Names of trajectories that need not run again (failed ones do)."""
        return {r.name for r in self.records() if not r.error}

    def write(self, record: Record) -> None:
        """A trajectory's first good record stays, so that several processes that evaluate the same settings end with the
        same records, and with tables that agree with them. A failure stands in a file beside it."""
        text = json.dumps(summed({k: v for k, v in asdict(record).items() if k not in ("no_pairs", "unaudited") or v}))
        target = self._records / f"{file_name(record.name)}{'.failed' if record.error else ''}.json"
        if record.error:
            write_atomic(target, text)
        elif not write_once(target, text):
            kept = read_record(target)
            if kept is None or kept.error:  # damaged
                write_atomic(target, text)

    def is_newer(self, name: str, files: Iterable[Path]) -> bool:
        """Whether a trajectory's record is newer than all of these files, as far as they are there."""
        record = self._records / f"{file_name(name)}.json"
        if not record.exists():
            return False
        stats = [f.stat() for f in files if f.exists()]
        return all(max(s.st_mtime_ns, s.st_ctime_ns) <= record.stat().st_mtime_ns for s in stats)

    def forget(self, names: Iterable[str]) -> None:
        """Remove the records of these trajectories, so that they are made again."""
        for name in names:
            for end in (".json", ".failed.json", ".npz"):
                (self._records / f"{file_name(name)}{end}").unlink(missing_ok=True)

    def write_features(self, name: str, features: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """What rollout metrics keep of a trajectory, by metric and array (n, ...), so that a run that goes on has them all."""
        target = self._records / f"{file_name(name)}.npz"
        arrays = {f"{metric}.{array}": values for metric, kept in features.items() for array, values in kept.items()}
        file = io.BytesIO()
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        write_bytes(target, file.getvalue(), FREE_SPACE)

    def features(self, names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
        """By metric and array, joined along the first axis: of all these trajectories that have any."""
        found: dict[str, dict[str, list[np.ndarray]]] = {}
        for file in filter(Path.exists, (self._records / f"{file_name(n)}.npz" for n in names)):
            for key, values in arrays(file).items():
                metric, _, array = key.partition(".")
                found.setdefault(metric, {}).setdefault(array, []).append(values)
        return {metric: {array: np.concatenate(parts) for array, parts in kept.items()} for metric, kept in found.items()}

    def without_features(self, names: Sequence[str]) -> list[str]:
        """Those of these trajectories whose features were never made."""
        return [n for n in names if not (self._records / f"{file_name(n)}.npz").exists()]

    def records(self) -> list[Record]:
        """All readable records, by name; a damaged file counts as not run (and is replaced when it is)."""
        found: dict[str, Record] = {}
        for record in filter(None, map(read_record, sorted(self._records.glob("*.json")))):
            if record.name not in found or found[record.name].error:
                found[record.name] = record
        return [found[name] for name in sorted(found)]

    def results(self) -> dict | None:
        """The finished run's results, or None (also for a file that is damaged, of another schema, or none of ours)."""
        file = self.path / "results.json"
        try:
            results = unsummed(json.loads(file.read_text()))
            if isinstance(results, dict) and results.get("schema", SCHEMA) != SCHEMA:
                return None
            check_results(results)
        except OSError:
            return None
        except (ValueError, RecursionError) as error:
            say_once(f"{file} is damaged ({error}): the run counts as unfinished")
            return None
        if "columns" in results:
            return results
        return results | {"summary": completed_summary(summarise(list(self.values(results).values())) | results["summary"])}

    def finish(self, run: dict, expected: Sequence[str], extra: dict[str, dict] | None = None, columns: Sequence[dict] = (), owed: Sequence[str] = ()) -> dict:
        """Aggregate the records of `expected` trajectories into results.json, pairs.csv, chunks.csv, trajectories.jsonl.

        extra: summary entries that are no means over trajectories. columns: what is known of the summary's columns. owed: what is to
        be done afterwards, see `owes`. Raises ValueError where a trajectory has neither a record nor a failure.
        """
        remove_stale(self.path)
        records = [r for r in self.records() if r.name in set(expected)]
        if lost := [name for name in expected if name not in {r.name for r in records}]:
            some = f"{len(lost)} of {len(expected)} trajectories have neither a record nor a failure ({', '.join(lost[:3])})"
            raise ValueError(f"{self.path}: {some}; run the same command again")
        good = [r for r in records if not r.error]
        run = run | {
            "trajectories": len(good),
            "names": list(expected),
            "failed": {r.name: r.error for r in records if r.error},
            **({"unaudited": unaudited} if (unaudited := _nowhere(good)) else {}),
            **({"no_pairs": missed} if (missed := {r.name: r.no_pairs for r in good if r.no_pairs}) else {}),
            "noise": hashlib.sha256("".join(r.noise for r in good).encode()).hexdigest()[:16],
        }
        results = {"schema": SCHEMA, "run": run, "summary": summarise([r.values for r in good]) | (extra or {}), "columns": list(columns)}
        if curves := recall_curves([r.probes for r in good]):
            results["curves"] = curves
        write_atomic(self.path / "trajectories.jsonl", "".join(json.dumps({"name": r.name, "error": r.error, **r.values}) + "\n" for r in records))
        for table in ("pairs", "chunks", "probes"):
            rows = [{"trajectory": r.name, **row} for r in good for row in getattr(r, table)]
            if rows or table != "probes":
                write_csv(self.path / f"{table}.csv", rows)
        if owed:
            write_atomic(self.path / OWED, "".join(f"{step}\n" for step in owed))
        write_atomic(self.path / "results.json", json.dumps(summed(results), indent=1))
        return results

    def owes(self, step: str) -> bool:
        """Whether something is still to be done for a finished run: what ended in the middle is done by the next start."""
        return step in self._owed()

    def paid(self, step: str) -> None:
        """It is done."""
        left = [s for s in self._owed() if s != step]
        if left:
            write_atomic(self.path / OWED, "".join(f"{s}\n" for s in left))
        else:
            (self.path / OWED).unlink(missing_ok=True)

    def _owed(self) -> list[str]:
        try:
            return (self.path / OWED).read_text(errors="replace").split()
        except OSError:
            return []

    def good(self, results: dict | None = None) -> list[Record]:
        """The records that these results are of (of trajectories that have left the world since, some may lie here still); None: all."""
        names = results["run"].get("names") if results else None
        return [r for r in self.records() if not r.error and (names is None or r.name in names)]

    def values(self, results: dict | None = None) -> dict[str, dict[str, float]]:
        """Columns by trajectory, for paired comparisons."""
        return {r.name: r.values for r in self.good(results)}


def _nowhere(records: Sequence[Record]) -> dict[str, str]:
    """What an audit could replace pages by in no trajectory that was probed, and why in one of them."""
    probed = [r for r in records if r.probes]
    return {arm: why for r in probed[:1] for arm, why in r.unaudited.items() if all(arm in other.unaudited for other in probed)}


def without_result(results: dict) -> str:
    """Why a finished run has no main result, neither of revisit pairs nor of recall probes; empty where it has one, or was stopped for a snapshot."""
    about = results["run"]
    missed = about.get("no_pairs", {})
    snapshot = about.get("config", {}).get("snapshot") or {}
    if (
        not missed
        or len(missed) < about["trajectories"]
        or any(k.startswith("recall/") for k in results["summary"])
        or snapshot.get("save")
        or snapshot.get("chunks")
    ):
        return ""
    name, why = next(iter(missed.items()))
    return f"no revisit pairs in {f'any of {len(missed)} trajectories' if len(missed) > 1 else name}, so nothing was scored: {why}"

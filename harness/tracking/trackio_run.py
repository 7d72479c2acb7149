"""Trackio: a dashboard on this machine, without an account (`trackio show --project worldkv-harness`)."""

import logging
import os
from typing import Any

import trackio

from harness.reporting.curves import means
from harness.results.run_folder import RunFolder
from harness.tracking.tracker import PICTURES, Label, folder_id

log = logging.getLogger(__name__)


class TrackioTracker:
    """A run of Trackio, named after the run folder, so that the same evaluation goes on under the same name."""

    def __init__(self, folder: RunFolder, config: dict, label: Label) -> None:
        self._folder, self._config, self._label = folder, config, label
        self._project = os.environ.get("TRACKIO_PROJECT", "worldkv-harness")
        self._run: Any = None

    def begin(self) -> None:
        about = {"label": self._label.name, "tags": ", ".join(self._label.tags), "notes": self._label.notes, "folder": str(self._folder.path.resolve())}
        try:
            self._run = trackio.init(
                self._project,
                name=f"{self._folder.path.resolve().name}-{folder_id(self._folder.path)}",  # two folders of one name are two runs
                group=self._label.group,
                config=self._config | {f"about/{k}": v for k, v in about.items() if v},
                resume="allow",
                embed=False,
            )
        except Exception as error:  # noqa: BLE001  (tracking must never cost a result)
            _warn(error)

    def log(self, row: dict[str, float]) -> None:
        try:
            if self._run is not None:
                self._run.log(dict(row))
        except Exception as error:  # noqa: BLE001
            self._run = None
            _warn(error)

    def finish(self, results: dict | None) -> str | None:
        """The command that shows the run."""
        try:
            if self._run is None:
                return None
            if results is not None:
                for row in means([r.chunks for r in self._folder.good(results)]):
                    self._run.log(row)
                pictures = {key: trackio.Image(str(self._folder.path / file)) for file, key in PICTURES.items() if (self._folder.path / file).exists()}
                self._run.log({**{k: v["mean"] for k, v in results["summary"].items()}, **pictures})
            self._run.finish()
        except Exception as error:  # noqa: BLE001
            _warn(error)
            return None
        return f"trackio show --project {self._project}"


def _warn(error: Exception) -> None:
    log.warning("Trackio was not told of this run (%s: %s)", type(error).__name__, str(error).strip().splitlines()[:1])

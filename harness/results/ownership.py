"""Whether a run folder is this evaluation's: of the same settings, and of the same weights."""

import logging
from collections.abc import Mapping

import yaml

from harness.results.identity import DECIDES, deciding
from harness.results.run_folder import RunFolder

log = logging.getLogger(__name__)


def check_same_settings(folder: RunFolder, settings: dict, chosen: bool) -> None:
    """A run folder holds one evaluation: refuse to mix another one into it. chosen: by run_dir."""
    file = folder.path / "config.yaml"
    if file.exists():
        try:
            old = yaml.safe_load(file.read_text())
            if not isinstance(old, dict) or not old.keys() >= set(DECIDES):
                raise ValueError("it holds no settings")
            theirs = deciding(old)
        except (ValueError, yaml.YAMLError, AttributeError) as error:
            if chosen:  # a folder whose name says nothing of its settings
                raise ValueError(f"{file} is damaged ({error}), so nobody knows whose records lie there; choose another run_dir, or overwrite=true") from error
            log.warning("%s is damaged (%s) and written anew", file, error)
            return
        if differ := [k for k in sorted(settings.keys() | theirs.keys()) if theirs.get(k) != settings.get(k)]:
            raise ValueError(f"{folder.path} holds a run with other settings of {', '.join(differ)}; choose another run_dir, or overwrite=true to replace it")


def check_same_weights(folder: RunFolder, weights: Mapping[str, str]) -> None:
    """Rollouts of other weights under the same name stay apart: a file that was trained anew, another checkout. weights: digests by setting."""
    if (theirs := folder.weights()) is not None and (differ := [k for k in weights if k in theirs and theirs[k] != weights[k]]):
        named = " and ".join(f"backbone.{k}" for k in differ)
        raise ValueError(f"{folder.path} holds rollouts of other weights: the file of {named} has changed since; choose another name, or overwrite=true")

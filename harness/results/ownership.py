"""Whether a run folder is this evaluation's: of the same settings, and of the same files."""

import logging
from collections.abc import Mapping

import yaml

from harness.results.identity import DECIDES, deciding
from harness.results.run_folder import RunFolder

log = logging.getLogger(__name__)
CODE = "code of "  # before a module, among what a run folder remembers of contents


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


def check_same_contents(folder: RunFolder, contents: Mapping[str, str]) -> list[str]:
    """Rollouts of other files under the same name stay apart: weights that were trained anew, a path that was recorded again, a policy whose code was
    edited. contents: digests by setting, and by module (`CODE`). Returns the modules that have changed: a finished run stands, but nothing may be added
    to it. Raises ValueError for other weights or inputs."""
    theirs = folder.weights() or {}
    differ = [k for k in contents if k in theirs and theirs[k] != contents[k]]
    if files := [k for k in differ if not k.startswith(CODE)]:
        what = "weights" if not any(k.startswith("world.") for k in files) else "inputs"
        named = " and ".join(k if k.startswith("world.") else f"backbone.{k}" for k in files)
        raise ValueError(f"{folder.path} holds rollouts of other {what}: what {named} names has changed since; choose another name, or overwrite=true")
    return [k.removeprefix(CODE) for k in differ]

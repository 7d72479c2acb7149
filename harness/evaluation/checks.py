"""What is checked of an evaluation before it runs: its settings as a whole, and that its folder is its own."""

import logging
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import yaml
from omegaconf import DictConfig

from harness.backbone import Backbone
from harness.cache.stores import PackedStore
from harness.policy import CachePolicy
from harness.results.identity import DECIDES, deciding
from harness.results.run_folder import RunFolder
from harness.settings.build import plain
from harness.settings.check import check, check_fields, check_object
from harness.settings.main_job import GROUPS, MainSettings
from harness.settings.plugins import plugins_of
from harness.worlds.base import World

if TYPE_CHECKING:
    from metrics.metric_set import MetricSet

log = logging.getLogger(__name__)
NOTHING: Mapping[str, Any] = MappingProxyType({})


def check_all(cfg: DictConfig, given: Mapping[str, Any] = NOTHING) -> None:
    """The check of all settings, before anything is built. Raises ValueError that names what is wrong. Metrics take seconds to import:
    theirs are checked as they are built. given: see `evaluate`."""
    settings = plain(cfg)
    check_fields({k: v for k, v in settings.items() if k not in GROUPS}, MainSettings)
    packages = plugins_of([f"plugins=[{','.join(settings['plugins'])}]"])
    for group, kind in (("policy", CachePolicy), ("backbone", Backbone), ("world", World), ("store", PackedStore)):
        if group in given:
            check_object(given[group], group)
        else:
            check(settings[group], group, kind, packages)
    _check_devices(settings)


def _check_devices(settings: dict) -> None:
    """As many processes as there are devices, or a few for each core. Raises ValueError with the numbers."""
    cuda, cores = device_of(settings).type == "cuda", os.cpu_count() or 1
    most = torch.cuda.device_count() if cuda else 4 * cores
    if settings["devices"] > most:
        raise ValueError(
            f"devices={settings['devices']}: there are {f'{most} GPUs' if cuda else f'{cores} cores, which take up to {most} processes'}; use 1 to {most}"
        )


def check_images(metrics: "MetricSet", size: Sequence[int] | None) -> None:
    """Metrics that look at more pixels than there are say so before the rollout. size: of the world's images, where it has one."""
    for metric in metrics.frame:
        if size and min(size) < metric.least:
            raise ValueError(f"world.size={list(size)}: {metric.name} needs {metric.least} pixels a side or more; use metric=tiny, or a larger world.size")


def device_of(settings: dict) -> torch.device:
    wanted = settings["backbone"]["device"]
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if str(wanted).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"backbone.device={wanted}, but PyTorch sees no GPU here; use backbone.device=cpu, or install a CUDA build of PyTorch")
    return torch.device(wanted)


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

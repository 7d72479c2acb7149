"""What is checked of an evaluation before it runs: its settings as a whole."""

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig

from harness.backbone import Backbone
from harness.cache.stores import PackedStore
from harness.policy import CachePolicy
from harness.settings.build import plain
from harness.settings.check import check, check_fields, check_object
from harness.settings.main_job import GROUPS, MainSettings
from harness.settings.plugins import plugins_of
from harness.system.devices import chosen_device
from harness.worlds.base import World

if TYPE_CHECKING:
    from metrics.metric_set import MetricSet

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
    return chosen_device(str(settings["backbone"]["device"]))

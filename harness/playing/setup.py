"""From settings to what a walk is made of: the world's start, the model, and policies by name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from harness.backbone import Backbone
from harness.cache.stores import PackedStore
from harness.playing.camera import Camera
from harness.policy import CachePolicy
from harness.results.identity import plain_backbone
from harness.settings.build import build, plain
from harness.settings.check import check_fields
from harness.settings.command_line import CONF, composed, label_of
from harness.settings.main_job import GROUPS, MainSettings
from harness.settings.nested import flatten
from harness.settings.plugins import plugin_folders, plugins_of
from harness.trajectory import Trajectory
from harness.worlds.base import World
from harness.worlds.ground import Ground

DEFAULTS = {"step": 0.12, "degrees": 10.0}  # metres and turn a frame, where a world does not say


@dataclass(frozen=True)
class Choice:
    """What a pane runs, as its menus say it. ratio: share of rows that the policy's compressor keeps; None: the policy's own."""

    policy: str
    budget: str
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio}; use a share above 0 and up to 1, or leave it to the policy")


@dataclass(frozen=True)
class Made:
    """A policy that is ready to begin. settings: all that decide its results. ratio: what its compressor keeps; None: it has none."""

    choice: Choice
    label: str
    policy: CachePolicy
    store: PackedStore
    settings: dict
    choices: dict[str, str]
    ratio: float | None

    @property
    def about(self) -> dict[str, object]:
        """What a snapshot belongs to, as `harness/run.py` has it."""
        backbone = {k: v for k, v in plain_backbone(self.settings["backbone"]).items() if k != "device"}
        return {"policy": self.settings["policy"], "backbone": backbone, "codec": self.settings["store"]["codec"]}


@dataclass(frozen=True)
class Setup:
    """overrides: of the main job's settings, for all panes. index: of the world's trajectory that the walk starts from. Properties
    are made when they are first asked for."""

    overrides: tuple[str, ...] = ()
    index: int = 0
    bank: Path = field(default=Path("outputs/.play"))  # files of stores that have some
    first: Choice | None = field(default=None, compare=False)  # the policy that other settings follow (`backbone.arm`), and whose settings `policy.x` are

    def options(self, group: str) -> tuple[str, ...]:
        """Names of the settings files of a group, those of plugins too."""
        places = [CONF, *plugin_folders(self.overrides)]
        return tuple(sorted({p.stem for place in places for p in (place / group).glob("*.yaml")}))

    @cached_property
    def cfg(self) -> DictConfig:
        cfg = self._composed([f"policy={self.first.policy}", f"budget={self.first.budget}"] if self.first else [])[0]
        check_fields({k: v for k, v in plain(cfg).items() if k not in GROUPS}, MainSettings)
        return cfg

    @cached_property
    def backbone(self) -> Backbone:
        return build(self.cfg.backbone, "backbone", Backbone, plugins_of(self.overrides))

    @cached_property
    def _world(self):
        return build(self.cfg.world, "world", World, plugins_of(self.overrides))

    @cached_property
    def ground(self) -> Ground | None:
        return self._world.ground(self.index)

    @property
    def fov(self) -> float:
        """Horizontal, degrees."""
        return 2 * torch.rad2deg(torch.atan(self.size[1] / 2 / self.start.intrinsics[0, 0])).item()

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of a picture: rows, columns."""
        rows, columns = self.start.images.shape[-2:]
        return rows, columns

    @property
    def frames_px(self) -> int:
        """Video frames that a chunk adds."""
        g = self.backbone.geometry
        return g.chunk * g.stride_px

    @cached_property
    def start(self) -> Trajectory:
        """The world's first image, held for as many frames as the model begins with, from the first pose."""
        if not 0 <= self.index < len(self._world.names):
            raise ValueError(
                f"start={self.index}, but the world has {len(self._world.names)} trajectories; use 0 to {len(self._world.names) - 1}, or more of them"
            )
        g, path = self.backbone.geometry, self._world.trajectory(self.index)
        count = g.frames_px(g.chunk)
        image = (path.images[:1] * 255).round() / 255  # as a file holds it, so that a recorded walk begins the same
        given = image.expand(min(path.given, count), -1, -1, -1)
        c2w, intrinsics = (x[:1].expand(count, *x.shape[1:]).contiguous() for x in (path.c2w, path.intrinsics))
        return Trajectory(f"{path.name}_walk", c2w, intrinsics, torch.zeros(count, 6), given, (), fps=path.fps, prompt=path.prompt, metres=self._number("step"))

    def camera(self) -> Camera:
        return Camera(self.start.c2w[0], self._number("step"), self._number("degrees"))

    def make(self, choice: Choice) -> Made:
        """The policy of a choice and its store. Raises ValueError for what does not go together."""
        for group in ("policy", "budget"):
            if (name := getattr(choice, group)) not in (known := self.options(group)):
                raise ValueError(f"there is no {group} {name!r}; use one of {', '.join(known)}")
        overrides = [f"policy={choice.policy}", f"budget={choice.budget}"]
        cfg, choices = self._composed(overrides)
        ratios = [k for k in flatten(OmegaConf.to_container(cfg.policy)) if re.search(r"(^|\.)ratio$", k)]
        if choice.ratio is not None and not ratios:
            raise ValueError(f"policy {choice.policy} compresses nothing, so it has no ratio; leave it, or choose a policy with a compressor (worldkv)")
        if choice.ratio is not None:
            overrides += [f"policy.{k}={choice.ratio}" for k in ratios]
            cfg, choices = self._composed(overrides)
        settings = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        assert isinstance(settings, dict)
        store = build(cfg.store, "store", PackedStore, plugins_of(self.overrides))
        store.settle(self.bank)
        ratio = float(OmegaConf.select(cfg.policy, ratios[0])) if ratios else None
        return Made(
            choice,
            label_of(cfg, choices, [*self.overrides, *overrides]),
            build(cfg.policy, "policy", CachePolicy, plugins_of(self.overrides)),
            store,
            settings,
            choices,
            ratio,
        )

    def _composed(self, more: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
        try:
            return composed(CONF, [*self.overrides, *more])
        except HydraException as error:
            raise ValueError(str(error)) from None

    def _number(self, name: str) -> float:
        """A setting of the world, as far as it has it."""
        return float(self.cfg.world.get(name) or DEFAULTS[name])

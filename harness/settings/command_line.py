"""Help for the command line: unknown settings are answered with the known ones, before anything is built."""

import difflib
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from harness.settings.nested import flatten
from harness.settings.plugins import plugin_folders, with_plugins
from harness.settings.words import short_file

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent  # of the checkout
BUDGET = "w18"  # the default of conf/config.yaml, which labels need not name
FILES = ("run_dir", "world.folder", "world.truth", "backbone.weights", "backbone.arm", "snapshot.save", "snapshot.load", "recorded")
TEXTS = ("name", "notes", *FILES)  # text, whatever it looks like
CONF = next(p for p in (ROOT / "conf", PACKAGE / "_conf") if p.is_dir())


def check_overrides(conf: Path, arguments: Sequence[str]) -> None:
    """Exit with the valid names when `a.b=c` names a setting that does not exist. Groups are Hydra's own to check."""
    try:
        parsed = OverridesParser.create().parse_overrides([a for a in arguments if "=" in a and not a.startswith("-")])
        places = (conf, *plugin_folders(arguments))
        groups = [o for o in parsed if any((p / o.key_or_group).is_dir() for p in places) and not o.key_or_group.startswith("hydra")]
        first = [f"{'+' if o.is_add() else ''}{o.key_or_group}{f'@{o.package}' if o.package else ''}={_one(o)}" for o in groups]
        plugins = [a for a in arguments if a.startswith(("plugins=", "hydra.searchpath="))]
        for override, group in zip(groups, first, strict=True):
            option = group.partition("=")[2]
            if ".." in option or option.startswith(("/", "'/", '"/')):
                raise SystemExit(f"error: {override.key_or_group}={option}: an option is a name; files of your own folder are found with --config-dir=FOLDER")
        if not any(a.startswith(("--config-dir", "-cd", "hydra.searchpath=")) for a in arguments):  # else options may lie anywhere
            for override in groups:
                _check_option(override, places)
        chosen = with_plugins([*first, *plugins])
        settings = [o for o in parsed if not (o in groups or o.is_add() or o.is_force_add() or o.key_or_group.startswith("hydra"))]
        if not settings and not any("/" in o.key_or_group for o in groups):
            return  # Hydra's own composition says all there is to say; ours would take 0.15 s
        with initialize_config_dir(str(conf), version_base="1.3"):
            cfg = compose("config", chosen)
    except HydraException as error:
        if part := re.match(r"Could not override '(\w+)/([\w/]+)'. No match", str(error)):
            whole = next((f"{part[1]}={_one(o)}" for o in groups if o.key_or_group == part[1]), f"the default {part[1]}")
            raise SystemExit(f"error: {whole} has no {part[2]} to choose; its settings are shown by --help beside it") from None
        return  # Hydra says what is wrong with it, and lists a group's options
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    finally:
        GlobalHydra.instance().clear()
    for key in (o.key_or_group for o in settings):
        parent, _, leaf = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig) or leaf not in set(node):  # unlike `in`, iteration knows values that are still `???`
            known = sorted(flatten(OmegaConf.to_container(cfg, resolve=False)))
            close = difflib.get_close_matches(key, known, 5, 0.5)
            siblings = [k for k in known if k.startswith(f"{parent}.")] if isinstance(node, DictConfig) and parent else []
            raise SystemExit(
                f"error: there is no setting {key!r}. Did you mean: {', '.join(close or siblings or known)}?"
                + (f"\nsettings of {parent}: {', '.join(siblings)}" if siblings else "")
            )


def _check_option(override: Override, places: Iterable[Path]) -> None:
    """Exits with the near names for an option of a group that is in none of `places`."""
    group = override.key_or_group
    known = sorted({f.stem for p in places for f in (p / group).glob("*.yaml")})
    values = override.sweep_string_iterator() if override.is_sweep_override() else [override.get_value_element_as_str()]
    for option in map(str, values):
        if re.fullmatch(r"[\w-]+", option) and option not in (*known, "null"):
            close = difflib.get_close_matches(option, known, 3, 0.6)
            meant = f"Did you mean: {', '.join(close)}?" if close else f"Use one of: {', '.join(known)}"
            raise SystemExit(f"error: there is no {group}={option}. {meant}")


def check_single(arguments: Sequence[str]) -> None:
    """Exits with the remedy where values are listed for several runs, and nothing says that several are wanted."""
    try:
        parsed = OverridesParser.create().parse_overrides([a for a in arguments if "=" in a and not a.startswith("-")])
    except HydraException:
        return  # Hydra says what is wrong with it
    if several := [o.input_line for o in parsed if o.is_sweep_override()]:
        raise SystemExit(f"error: {several[0]} asks for several runs; add -m, which runs each of them")


MULTIRUN = ("-m", "--multirun")


def swept(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """Every combination of the lists among overrides, as Hydra's own sweeper makes them. Within `initialize_config_dir`: glob() asks for the options
    of a group. Raises HydraException for what it cannot read."""
    parser, lists = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()), []
    for override in parser.parse_overrides(list(overrides)):
        values = override.sweep_string_iterator() if override.is_sweep_override() else [override.get_value_element_as_str()]
        lists.append([f"{override.get_key_element()}={value}" for value in values])
    return list(itertools.product(*lists))


def understood(arguments: Sequence[str]) -> list[str]:
    """A command line as it was meant: quoted for Hydra where its grammar takes signs of a path for its own (`( [ { =`), or a name for a number
    (`name=2025`); `~` is the home folder; `-m` may stand anywhere. What Hydra cannot read then either is left to it to say. Raises ValueError
    for a list of no names as the option of a group, at which Hydra falls over."""
    several = [a for a in arguments if a in MULTIRUN]  # Hydra cannot read it between two overrides
    return [*several[:1], *(_meant(a) if "=" in a and not a.startswith("-") else a for a in arguments if a not in MULTIRUN)]


def _meant(argument: str) -> str:
    key, _, value = argument.partition("=")
    if value.startswith("~/"):
        value = os.path.expanduser(value)
    plain, quoted = f"{key}={value}", "{}='{}'".format(key, value.replace("'", "\\'"))
    try:
        override = OverridesParser.create().parse_overrides([plain])[0]
    except HydraException:
        if key not in TEXTS and os.sep not in value:
            return argument  # a list that was not closed, say
        try:
            OverridesParser.create().parse_overrides([quoted])
        except HydraException:
            return argument
        return quoted
    chosen = None if override.is_sweep_override() else override.value()
    if isinstance(chosen, list) and (CONF / override.key_or_group).is_dir() and not all(isinstance(c, str | QuotedString) for c in chosen):
        raise ValueError(f"{argument}: an option of {override.key_or_group} is a name; several runs are -m {override.key_or_group}=ONE,OTHER")
    is_text = override.is_sweep_override() or isinstance(chosen, str | QuotedString) or chosen is None
    is_text |= key == "name" and isinstance(chosen, list | dict)  # no name; a path may look like one
    return plain if is_text or key not in TEXTS else quoted


def composed(conf: Path, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """The main job's config under these overrides, and the option chosen in every group. Raises HydraException, ValueError for plugins."""
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose("config", with_plugins(overrides), return_hydra_config=True)
    choices = {str(k): str(v) for k, v in cfg.hydra.runtime.choices.items()}
    return OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"]), choices


def label_of(cfg: DictConfig, choices: dict[str, str], overrides: Sequence[str]) -> str:
    """What tables call a run: its policy and what was changed in it, other weights among it. Of a store, only its codec changes results; of a budget,
    only a policy that has one takes notice."""
    tweaks = [o.partition("@policy.")[2] or o[len("policy.") :] for o in overrides if o.startswith(("policy.", "policy/", "policy@"))]
    tweaks += [f"arm={short_file(str(cfg.backbone.arm))}" for o in overrides if o.startswith("backbone.arm=")]
    tweaks += [o[len("store.") :] for o in overrides if o.startswith(("store.codec", "store/codec"))]
    if choices["budget"] != BUDGET and "${budget" in OmegaConf.to_yaml(cfg.policy):
        tweaks.append(f"budget={choices['budget']}")
    return " ".join([choices["policy"], *tweaks])


def _one(override: Override) -> str:
    """The value of a group override; of a sweep, its first."""
    return next(iter(override.sweep_string_iterator())) if override.is_sweep_override() else override.get_value_element_as_str()

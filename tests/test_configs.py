"""Every file in conf/ composes and instantiates; nothing but plain values reaches a class."""

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from backbones.rooms import WEIGHTS
from harness.settings.build import build
from tests.conftest import CONF

PARTS = (
    *("hydra/launcher", "store/codec"),
    *(f"policy/{part}" for part in ("selector", "compressor", "placement", "likeness", "evict", "scorer", "split")),
)
GROUPS = {
    g: sorted(p.stem for p in (CONF / g).glob("*.yaml"))
    for g in ("policy", "backbone", "world", "store", "metric", "experiment", "budget", "arm", "modes", *PARTS)
}


def test_every_yaml_is_in_a_tested_group():
    known = {f"{g}/{n}.yaml" for g, names in GROUPS.items() for n in names} | {"config.yaml", "bench.yaml", "replay.yaml"}
    assert known == {str(p.relative_to(CONF)) for p in CONF.rglob("*.yaml")}


@pytest.mark.parametrize(
    ("group", "name"), [(g, n) for g, names in GROUPS.items() for n in names if g not in ("experiment", "budget", "arm", "modes", "hydra/launcher")]
)
def test_options_instantiate(group, name, tmp_path):
    needs = {"policy/likeness": ["policy=places"], "policy/evict": ["policy=capped"], "policy/scorer": ["policy=h2o"], "policy/split": ["policy=h2o"]}
    overrides = [*needs.get(group, []), f"{group}={name}"]
    if group == "backbone" and not name.startswith("rooms"):  # published sizes need a GPU's memory
        overrides += ["backbone.weights=random", "backbone.size=[32,32]", "backbone.sizes={dim: 32, heads: 2, layers: 1, ffn: 8, context_dim: 8}"]
    if group == "world" and name in ("recorded", "scenes"):
        overrides.append(f"world.folder={_recorded(tmp_path)}")
    if group == "world" and name == "videos":
        np.save(_recorded(tmp_path) / "frames.npy", np.zeros((9, 16, 24, 3), np.uint8))
        overrides.append(f"world.folder={tmp_path}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides)
    node = cfg[group.split("/")[0]]
    if group == "backbone" and name == "rooms":
        assert WEIGHTS.is_file()
    for thing in [build(n, group) for n in (node.values() if group == "metric" else [node])]:
        assert not any(isinstance(v, DictConfig | ListConfig) for v in vars(thing).values())


@pytest.mark.parametrize("name", GROUPS["budget"])
def test_budgets_are_windows_of_their_name(name):
    """Sink 3, recent 3 and the chunk's 3 are the same everywhere; what lies between grows."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = ("worldkv", "sink_recent", "sliding", "no_sink", "deep_forcing", "ema", "heads", "h2o", "flowcache", "landmark", "field", "tempcache_bounded")
        policies = {p: compose("config", [f"budget={name}", f"policy={p}"]).policy for p in chosen}
    frames = int(name[1:])
    assert policies["worldkv"].retrieved + 9 == policies["no_sink"].retrieved + 6 == frames
    assert policies["sink_recent"].recent + 6 == policies["sliding"].recent + 3 == frames
    deep, ema, heads = (policies[p] for p in ("deep_forcing", "ema", "heads"))
    assert deep.sink + deep.budget + deep.recent + 3 == frames and abs(2 * deep.sink - frames) <= 2, "about half of the window is sink"
    assert ema.sink + ema.recent + 2 + 3 == frames, "two averages"
    assert heads.inner.unit == "frames" and heads.inner.retrieved / 2 + 9 == frames, "half chunks"
    assert policies["h2o"].budget + policies["h2o"].sink + policies["h2o"].recent + 3 == frames
    assert (
        policies["landmark"].frames + 9 == policies["field"].slots + 9 == policies["flowcache"].budget + 9 == policies["tempcache_bounded"].limit + 9 == frames
    )


@pytest.mark.filterwarnings("ignore:\\s*\\S+ is validated against ConfigStore schema")
@pytest.mark.parametrize("name", GROUPS["hydra/launcher"])
def test_launchers_compose_and_are_what_their_plugin_takes(name):
    """Where the plugin is installed, Hydra also checks every key against the plugin's own schema."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"hydra/launcher={name}", "name=e"], return_hydra_config=True)
    launcher = cfg.hydra.launcher
    assert launcher._target_.split(".")[0] == "hydra_plugins"
    if name.startswith("submitit"):
        assert launcher.submitit_folder == "outputs/e/.submitit/%j" and launcher.name == "e"
        made = instantiate(launcher)
        assert made.params["timeout_min"] == launcher.timeout_min
    if name == "submitit_slurm":
        from submitit.slurm.slurm import SlurmExecutor

        known = SlurmExecutor._valid_parameters() | set(SlurmExecutor._equivalence_dict()) | {"submitit_folder", "max_num_timeout"}
        assert set(made.params) <= known
        assert made.params["additional_parameters"] == {"requeue": True}


@pytest.mark.parametrize("name", [n for n in GROUPS["arm"] if n not in ("common", "control")])
def test_arms_compose_and_share_all_but_their_memory(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg, control = (OmegaConf.to_container(compose("experiment/train_rooms", [f"arm={n}"]), resolve=True) for n in (name, "control"))
    assert isinstance(cfg, dict) and isinstance(control, dict)
    if name == "none":
        assert cfg["arm"] is None and cfg["out"] == "outputs/train_rooms"
        return
    assert build(cfg["arm"]["policy"], "arm.policy").arm == cfg["arm"]["name"] == name and cfg["out"] == f"outputs/train_{name}"
    mine, theirs = (
        {k: v for k, v in c.items() if k != "out"} | {"arm": {k: v for k, v in c["arm"].items() if k not in ("name", "policy")}} for c in (cfg, control)
    )
    assert mine == theirs


@pytest.mark.parametrize("name", GROUPS["experiment"])
def test_experiments_compose(name, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        if name.startswith("train_"):
            cfg = compose(f"experiment/{name}")
            build(cfg.samples, "samples")
        else:
            needs = ["backbone.weights=random", f"world.folder={_recorded(tmp_path)}"] if name.startswith("worldkv_table") else []
            cfg = compose("config", [f"+experiment={name}", *needs])
            build(cfg.world, "world")
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=not name.startswith("train_"))


def _recorded(folder):
    import imageio.v3 as iio

    np.save(folder / "walk_poses.npy", np.tile(np.eye(4), (9, 1, 1)))
    np.save(folder / "walk_intrinsics.npy", np.array([[400.0, 400.0, 416.0, 240.0]]))
    iio.imwrite(folder / "first.png", np.zeros((48, 64, 3), dtype=np.uint8))
    return folder

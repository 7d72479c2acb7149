"""Every file in conf/ composes and instantiates; nothing but plain values reaches a class."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from backbones.rooms import WEIGHTS
from tests.conftest import CONF

GROUPS = {
    g: sorted(p.stem for p in (CONF / g).glob("*.yaml"))
    for g in ("policy", "backbone", "world", "store", "metric", "experiment", "policy/selector", "policy/compressor", "policy/placement", "store/codec")
    + ("policy/scorer", "policy/split")
}


def test_every_yaml_is_in_a_tested_group():
    known = {f"{g}/{n}.yaml" for g, names in GROUPS.items() for n in names} | {"config.yaml", "bench.yaml"}
    assert known == {str(p.relative_to(CONF)) for p in CONF.rglob("*.yaml")}


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, names in GROUPS.items() for n in names if g != "experiment"])
def test_options_instantiate(group, name, tmp_path):
    overrides = [f"{group}={name}"] if group not in ("policy/scorer", "policy/split") else ["policy=h2o", f"{group}={name}"]
    if group == "backbone" and not name.startswith("rooms"):  # published sizes need a GPU's memory
        overrides += ["backbone.weights=random", "backbone.size=[32,32]", "backbone.sizes={dim: 32, heads: 2, layers: 1, ffn: 8, context_dim: 8}"]
    if group == "world" and name in ("recorded", "scenes"):
        overrides.append(f"world.folder={_recorded(tmp_path)}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides)
    node = cfg[group.split("/")[0]]
    if group == "backbone" and name == "rooms":
        assert WEIGHTS.is_file()
    for thing in [instantiate(n, _convert_="all") for n in (node.values() if group == "metric" else [node])]:
        assert not any(isinstance(v, DictConfig | ListConfig) for v in vars(thing).values())


@pytest.mark.parametrize("name", GROUPS["experiment"])
def test_experiments_compose(name, tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        if name.startswith("train"):
            cfg = compose(f"experiment/{name}")
            instantiate(cfg.samples, _convert_="all")
        else:
            needs = ["backbone.weights=random", f"world.folder={_recorded(tmp_path)}"] if name.startswith("worldkv_table") else []
            cfg = compose("config", [f"+experiment={name}", *needs])
            instantiate(cfg.world, _convert_="all")
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=not name.startswith("train"))


def _recorded(folder):
    import imageio.v3 as iio
    import numpy as np

    np.save(folder / "walk_poses.npy", np.tile(np.eye(4), (9, 1, 1)))
    np.save(folder / "walk_intrinsics.npy", np.array([[400.0, 400.0, 416.0, 240.0]]))
    iio.imwrite(folder / "first.png", np.zeros((48, 64, 3), dtype=np.uint8))
    return folder

"""Arms: weights trained on for one kind of memory. Training sees what the policy shows; what is remembered is saved and forked to the bit."""

import json

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors import safe_open

from backbones.rooms import WEIGHTS, RoomsBackbone, TinyRoomsBackbone, load_weights
from backbones.rooms_arms import ARMS, arm_file, fingerprint, load_arm, memory_of, save_arm
from harness.cache.stores import GpuStore
from harness.reporting.data import report
from harness.reporting.groups import read_runs
from harness.reporting.notes import notes
from harness.reporting.terminal import comparison
from harness.reporting.text import table
from harness.results.identity import comparable, config_hash, deciding
from harness.rollout import rollout
from harness.settings.command_line import composed, label_of
from harness.training.command import use_of
from tests.conftest import CONF, make_policy, with_arm
from tests.made_runs import make_run
from tests.toy_arms import TRAINED, config, toy_base

pytestmark = pytest.mark.filterwarnings("ignore")
SHIPPED = {"control": 800, "retrieved": 800, "compressed": 800, "recurrent": 800, "geometry": 800}  # steps


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_base(tmp_path_factory.mktemp("base"))


def test_a_missing_arm_is_named_with_the_command_that_makes_it(base, roll, backbone, trajectory):
    with pytest.raises(FileNotFoundError, match=r"toy.safetensors has no weights of the arm retrieved .*python harness/train.py arm=retrieved"):
        RoomsBackbone(base, "cpu", arm="retrieved")
    with pytest.raises(FileNotFoundError, match="weights of the arm geometry"):
        RoomsBackbone(base, "cpu", arm="oracle_geometry")
    with pytest.raises(ValueError, match="no such arm; use control, retrieved"):
        TinyRoomsBackbone(arm="nothing")
    with pytest.raises(
        ValueError, match="needs weights of the arm retrieved, TinyRoomsBackbone has no arm's; give backbone.arm=retrieved .*harness/train.py arm=retrieved"
    ):
        rollout(backbone, make_policy("trained_retrieved"), GpuStore(), trajectory, 0)
    with pytest.raises(ValueError, match="needs weights of the arm retrieved, TinyRoomsBackbone has those of the arm control"):
        rollout(with_arm("control"), make_policy("trained_retrieved"), GpuStore(), trajectory, 0)


def test_what_was_trained_says_how_to_use_it(base, tmp_path):
    file = tmp_path / "toy_control.safetensors"
    assert use_of(config(base, tmp_path, "control"), file) == f"policy=trained_control backbone.weights={base} backbone.arm={file}"
    assert use_of(config(base, tmp_path, "control", start=None), file) == f"policy=trained_control backbone.arm={file}"
    assert use_of(config(base, tmp_path, "none", arm=None), file) == f"backbone.weights={file}"


def test_the_setting_follows_the_policy():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for policy, arm, more in (("worldkv", None, []), ("trained_geometry", "geometry", []), ("worldkv", "control", ["backbone.arm=control"])):
            for backbone in ("rooms", "rooms_tiny"):
                cfg = compose("config", [f"policy={policy}", f"backbone={backbone}", *more])
                assert OmegaConf.to_container(cfg.backbone, resolve=True)["arm"] == arm
    assert {p.stem.removeprefix("trained_") for p in (CONF / "policy").glob("trained_*.yaml")} == set(TRAINED)
    assert {p.stem for p in (CONF / "arm").glob("*.yaml")} == {*TRAINED, "none", "common"}
    assert set(ARMS) == {*TRAINED, "oracle_geometry"}


@pytest.mark.parametrize("arm", SHIPPED)
def test_shipped_arms_belong_to_the_shipped_base(arm):
    """Their fingerprint is that of the base, and all saw the same clips."""
    path = WEIGHTS.with_name(f"rooms_{arm}.safetensors")
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["arm"])
    config, tensors = load_weights(WEIGHTS)
    assert path.stat().st_size <= 7e6
    assert about == {"arm": arm, "steps": SHIPPED[arm], "seed": 4, "base_steps": config["steps"], "base": fingerprint(tensors)}
    backbone = RoomsBackbone(arm=arm)
    assert backbone.arm == arm and all(x.isfinite().all() for x in backbone.network.state_dict().values())


def test_arm_files_are_differences_to_their_base(base, tmp_path):
    config, tensors = load_weights(base)
    network = {k.removeprefix("network."): x for k, x in tensors.items() if k.startswith("network.")}
    moved = {k: x + 0.001 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) for k, x in network.items()}
    memory = memory_of("recurrent", config)
    file = tmp_path / "toy_recurrent.safetensors"
    save_arm(file, {"arm": "recurrent", "steps": 1, "seed": 0, "base_steps": 0}, tensors, moved, memory)
    name, whole, loaded = load_arm(str(file), base, config, tensors)
    assert name == "recurrent" and loaded.state_dict().keys() == memory.state_dict().keys()
    error = max((whole[f"network.{k}"] - x).abs().max() for k, x in moved.items())
    assert error < 2e-6, "half precision of the difference, not of the weights"
    assert torch.equal(whole["codec.encoder.1.weight"], tensors["codec.encoder.1.weight"])
    other = {k: x + 1 if k.startswith("network.head.") else x for k, x in tensors.items()}
    assert fingerprint(other) != fingerprint(tensors)
    with pytest.raises(ValueError, match="is the arm recurrent of the base .*give backbone.weights=FILE of its base, or train"):
        load_arm(str(file), base, config, other)
    control = tmp_path / "toy_control.safetensors"
    control.write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="damaged or no arm"):
        load_arm(str(control), base, config, tensors)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged or no arm of toy.safetensors .*train it again"):
        load_arm(str(file), base, config, tensors)
    assert arm_file("oracle_geometry", base) == ("oracle_geometry", base.with_name("toy_geometry.safetensors"))
    assert arm_file("x/rooms_oracle_geometry.safetensors", base)[0] == "oracle_geometry"
    with pytest.raises(ValueError, match="says nothing of its arm"):
        arm_file("x/rooms.safetensors", base)


def test_runs_with_other_weights_are_compared_and_said(tmp_path):
    """One group, paired with the base's; the arm is no setting that must agree, and where there is none nothing changed."""
    base_run, trained = (make_run(tmp_path, name, quality=q) for name, q in (("full", 30.0), ("trained_control", 31.0)))
    results = json.loads((trained / "results.json").read_text())
    results["run"]["config"]["backbone"]["arm"] = "control"
    results.pop("sum", None)
    (trained / "results.json").write_text(json.dumps(results))
    runs, _ = read_runs(tmp_path)
    assert {r.group for r in runs} == {0}
    said = [n for n in notes(runs, "full") if n.startswith("other weights")]
    assert said == [
        "other weights of the same backbone (trained_control: control): a difference between weights is their training's too, not the memory's alone"
    ]
    assert report("e", runs, [])["weights"] == said
    assert "other weights of the same backbone" in " ".join(str(x) for x in comparison(tmp_path, base_run, 140).renderables)
    rows = {row["run"]: row for row in table(runs, "full")}
    assert "(5)" in next(v for k, v in rows["trained_control"].items() if k.endswith("to full")), "paired over the same trajectories"

    settings = {"policy": {}, "backbone": {"dtype": "float32"}, "world": {}, "store": {}, "metric": {}, "seed": 0}
    none, one = ({**settings, "backbone": {"dtype": "float32", "arm": arm}} for arm in (None, "control"))
    assert deciding(none) == deciding(settings) != deciding(one), "finished runs are found again"
    assert comparable(none) == comparable(settings) == comparable(one) == config_hash({k: settings[k] for k in ("backbone", "world", "metric", "seed")})


def test_weights_that_were_set_by_hand_are_in_the_label():
    overrides = ["policy=worldkv", "backbone.arm=retrieved"]
    cfg, choices = composed(CONF, overrides)
    assert label_of(cfg, choices, overrides) == "worldkv arm=retrieved"
    overrides = ["policy=worldkv", "backbone.arm=outputs/train_retrieved/rooms_retrieved.safetensors"]
    assert label_of(*composed(CONF, overrides), overrides) == "worldkv arm=train_retrieved/rooms_retrieved"
    assert label_of(*composed(CONF, ["policy=trained_control"]), ["policy=trained_control"]) == "trained_control"

"""The check of settings: whatever is malformed is named as one types it, and nothing is built or run before."""

import dataclasses
import time
from collections import Counter

import pytest

from backbones.rooms import TinyRoomsBackbone
from harness.backbone import Backbone
from harness.benchmark.command import BenchSettings
from harness.cache.stores import PackedStore
from harness.evaluation.checks import check_all
from harness.policy import CachePolicy
from harness.replaying.command import ReplaySettings
from harness.settings.build import build
from harness.settings.check import allowed, check, check_fields
from harness.settings.command_line import CONF
from harness.settings.command_line import composed as composed_main
from harness.settings.main_job import MainSettings
from harness.training.settings import TrainSettings
from harness.worlds.base import World
from tests.malformed import CANDIDATES, Site, accepts, composed, extremes, malformed, put, sites

KINDS = {"policy": CachePolicy, "backbone": Backbone, "world": World, "store": PackedStore}


@pytest.fixture(scope="module")
def found() -> list[Site]:
    return sites()


def test_every_setting_of_every_class_is_declared(found):
    """A number is declared with what it may be, text that is a choice as one."""
    undeclared = [s.where for s in found if s.kind in (int, dataclasses.MISSING) or "typing.Any" in str(s.kind)]
    assert not undeclared
    assert len(found) > 150


def test_malformed_values_of_all_groups_are_named(found):
    cases, wrong, by_group = 0, [], Counter[str]()
    for site in found:
        settings = composed(*site.overrides)
        for value in malformed(site):
            cases += 1
            by_group[site.group] += 1
            node = put(settings, site.where, value)
            where, kind = (site.group, KINDS.get(site.group, object))
            parts = node.items() if site.group == "metric" else [("", node)]
            try:
                for name, part in parts:
                    check(part, f"{where}.{name}" if name else where, kind)
            except ValueError as error:
                if site.where not in str(error) or len(str(error).splitlines()) > 1:
                    wrong.append(f"{site.where}={value!r}: unnamed: {error}")
            except Exception as error:  # noqa: BLE001
                wrong.append(f"{site.where}={value!r}: {type(error).__name__}: {error}")
            else:
                wrong.append(f"{site.where}={value!r}: accepted")
    assert not wrong, "\n".join(wrong[:40])
    assert cases >= 800 and set(by_group) == {"policy", "backbone", "world", "store", "metric"}, (cases, by_group)


@pytest.mark.parametrize(
    ("declared", "settings"),
    [
        (MainSettings, lambda: composed()),
        (BenchSettings, lambda: _of("bench")),
        (ReplaySettings, lambda: _of("replay")),
        (TrainSettings, lambda: _of("experiment/train_rooms")),
    ],
    ids=["run", "bench", "replay", "train"],
)
def test_malformed_values_outside_groups_are_named(declared, settings):
    fields = {f.name: f.type for f in dataclasses.fields(declared)}
    given = {k: v for k, v in settings().items() if k in fields}
    check_fields(given, declared)
    cases = 0
    for name, kind in _flat(fields):
        for value in (v for v in CANDIDATES if not accepts(kind, v)):
            cases += 1
            changed = _with(given, name.split("."), value)
            with pytest.raises(ValueError) as error:
                check_fields(changed, declared)
            assert name.partition("[")[0] in str(error.value) and "\n" not in str(error.value), (name, value)
    assert cases > 60, cases


def _flat(fields: dict, prefix: str = ""):
    for name, kind in fields.items():
        if dataclasses.is_dataclass(kind):
            yield from _flat({f.name: f.type for f in dataclasses.fields(kind)}, f"{prefix}{name}.")
        elif "Phase" not in str(kind) and "Any" not in str(kind):
            yield f"{prefix}{name}", kind


def _with(tree: dict, path: list[str], value) -> dict:
    return tree | {path[0]: _with(tree[path[0]], path[1:], value) if path[1:] else value}


def _of(config: str) -> dict:
    from hydra import compose, initialize_config_dir

    from harness.settings.build import plain

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose(config))


def test_the_least_and_the_greatest_are_built_or_refused_at_once(found):
    """What a declaration allows either works or is refused by what several settings say together: never another error, never a hang."""
    backbone = TinyRoomsBackbone()
    odd, cases, built = [], 0, 0
    for site in found:
        if site.group not in ("policy", "world", "store"):
            continue
        settings = composed(*site.overrides)
        for value in extremes(site.kind):
            node, began, cases = put(settings, site.where, value), time.monotonic(), cases + 1
            try:
                made = build(node, site.group, KINDS[site.group])
                if site.group == "policy":
                    made.reset(backbone.geometry)
                built += 1
            except (ValueError, OSError):
                pass
            except Exception as error:  # noqa: BLE001
                odd.append(f"{site.where}={value!r}: {type(error).__name__}: {error}")
            if time.monotonic() - began > 10:
                odd.append(f"{site.where}={value!r}: {time.monotonic() - began:.0f} s")
    assert not odd, "\n".join(odd)
    assert cases > 300 and built > cases / 3, (cases, built)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["policy.sink=-1"], "policy.sink=-1: use a whole number from 0"),
        (["policy.sink=abc"], "policy.sink='abc': use a whole number from 0"),
        (["policy.retrieved=nan"], "policy.retrieved=nan: use a number from 0 to 1e+15, or inf for no limit"),
        (["policy.selector.metres=nan"], "policy.selector.metres=nan: use a number above 0"),
        (["policy.unit=apples"], "policy.unit='apples': use equivalents, frames, tokens or bytes"),
        (["policy.selector=3"], "policy.selector=3: use a Selector (settings with its _target_)"),
        (["policy=places", "policy.theta=nan"], "policy.theta=nan"),
        (["world.fov=0"], "world.fov=0: use a number above 0 and below 180"),
        (["world.step=nan"], "world.step=nan: use a number from 0 to 1,000"),
        (["world.degrees=0"], "world.degrees=0: use a number above 0 and up to 180"),
        (["world.repeat=1.5"], "world.repeat=1.5: use a whole number from 1"),
        (["world.specs=[]"], "world.specs=[]: use a list of 1 or more, each text"),
        (["world.size=16"], "world.size=16: use a list of 2, each a whole number from 1 to 16,384"),
        (["world.size=[16000,16000]"], r"24 bytes a pixel), and"),
        (["backbone.dtype=foo"], "backbone.dtype='foo': use float32, bfloat16 or float16"),
        (["backbone.device=gpu"], "backbone.device='gpu': use cpu, cuda, cuda:N or auto"),
        (["policy/selector=coverage", "policy.selector.grid=1000000000"], "policy.selector.grid=1000000000: use a whole number from 1 to 64"),
        (["store=cpu", "store/codec=int4", "store.codec.group=abc"], "store.codec.group='abc'"),
        (["policy=int4_chunks", "policy.form.group=abc"], "policy.form.group='abc': use a whole number from 1"),
        (["threads=-1"], "threads=-1: use a whole number from 1 to 512 or null"),
        (["threads=99999"], "threads=99999"),
        (["devices=0"], "devices=0: use a whole number from 1"),
        (["devices=1000"], "devices=1000: there are"),
        (["seed=abc"], "seed='abc': use a whole number from 0"),
        (["progress=maybe"], "progress='maybe': use true or false"),
        (["name=../../x"], "name='../../x': use up to 120 letters"),
        (["probes.count=4", "probes.gaps=[8,4]"], "probes.gaps=[8, 4]; give rising numbers"),
        (["snapshot.chunks=0"], "snapshot.chunks=0: use a whole number from 1 or null"),
        (["world=recorded"], "world.folder is not set; give it as world.folder=..., text"),
        (["+policy.typo=3"], "there is no setting policy.typo; there are selector, compressor"),
        (["policy._target_=os.system"], "policy._target_=os.system: classes come from policies, backbones, metrics, harness"),
        (["policy._target_=numpy.load"], "policy._target_=numpy.load: classes come from"),
        (["policy.selector._target_=policies.parts.place.base.Absolute"], "policy.selector._target_=policies.parts.place.base.Absolute: this is no Selector"),
        (["policy._target_=policies.nowhere.Policy"], "there is no such class"),
        (["policy._target_=harness.system.files.write_atomic"], "this is no CachePolicy"),
        (["+policy.x={_target_: os.system}"], "there is no setting policy.x"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_was_seen_is_answered(overrides, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {o.partition("=")[0] for o in overrides}
    tiny = [o for o in ("backbone=rooms_tiny", "world=rooms_tiny") if o.partition("=")[0] not in given and not any(g.startswith(o[:5]) for g in given)]
    cfg, _ = composed_main(CONF, [*tiny, *overrides])
    with pytest.raises(ValueError) as error:
        check_all(cfg)
        build(cfg.world, "world", World)
    assert expected in str(error.value)
    assert not list(tmp_path.iterdir()), "it ran"


def test_published_models_without_weights_say_how_to_get_them():
    for name, repo in (("lingbot", "lingbot"), ("matrix_game2", "Matrix-Game"), ("self_forcing", "Self-Forcing")):
        with pytest.raises(FileNotFoundError, match=repo):
            build(composed(f"backbone={name}")["backbone"], "backbone", Backbone)


def test_a_network_that_does_not_fit_is_refused_with_the_arithmetic(monkeypatch):
    monkeypatch.setattr("backbones.wan_causal.free_bytes", lambda device: 10**9)
    node = composed("backbone=lingbot", "backbone.weights=random", "backbone.device=cpu")["backbone"]
    with pytest.raises(ValueError, match=r"the network's 18,\d\d\d,\d\d\d,\d\d\d parameters take \d\d\.\d GB, and cpu has 1\.0 GB free"):
        build(node, "backbone", Backbone)
    for sizes, expected in (
        ({"dim": 7}, "heads must divide dim"),
        ({"apples": 3}, "backbone.sizes has no apples"),
        ({"layers": 10**6}, "layers go up"),
    ):
        with pytest.raises(ValueError, match=expected):
            build(node | {"sizes": sizes}, "backbone", Backbone)


def test_the_words_are_those_of_the_declaration():
    from harness.settings.ranges import Angle, Count, Limit, Share, Size

    assert allowed(Count) == "a whole number from 1" and allowed(Share) == "a number from 0 to 1"
    assert allowed(Limit | None) == "a number from 0 to 1e+15, or inf for no limit or null"
    assert allowed(Size) == "a list of 2, each a whole number from 1 to 16,384" and allowed(Angle) == "a number above 0 and below 180"

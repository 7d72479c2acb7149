"""Sweeps: the files, the command line, grids and searches."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.sweeping.file import Tried, load, overrides_of
from harness.sweeping.local import PRELOADED, Options, options
from harness.sweeping.point import known, resolve
from tests.conftest import ROOT
from tests.sweep_files import COMMAND, TINY, sweep_file
from tests.test_policies import MATRIX

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_shipped_sweeps_are_what_wandb_and_the_main_job_take(path):
    """W&B's schema, W&B's own command line, and a config that composes (for four points: it takes time)."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    assert path.read_text().startswith("# The "), "the first line says which figure or table this makes"
    file = load(path)
    assert file.name == path.stem and file.fixed[0] == f"name={path.stem}"
    assert create_sweep_command(file.config["command"]) == file.config["command"]
    points = file.points(None) or [file.suggest(i, []) for i in range(3)]
    for parameters in points:
        theirs = create_sweep_command_args({"args": {k: {"value": v} for k, v in parameters.items()}})["args_no_hyphens"]
        assert list(overrides_of(parameters)) == theirs
    some = [resolve(p, file.fixed, Path("e")) for p in points[:: len(points) // 3]]
    assert not [p.problem for p in some if p.problem]
    if "budget" not in file.config["parameters"]:  # some policies have none: their points are one evaluation, and run once
        assert len({p.path for p in some}) == len(some), "two points are one evaluation"


def test_policies_are_compared_at_an_equal_budget():
    budget = {name: frames for name, frames, _ in MATRIX}
    named = yaml.safe_load((ROOT / "sweeps" / "houses_guided.yaml").read_text())["parameters"]["policy"]["values"]
    assert {budget[name] for name in named if name != "full"} == {18}
    assert {budget[n] for n in ("worldkv", "no_sink", "no_recent", "random", "random_rows", "sink_recent", "retrieval_only")} == {18}


def test_our_folder_does_not_hide_the_package():
    import sweeps

    assert sweeps.__version__ == "0.2.0"
    assert not list((ROOT / "sweeps").glob("*.py"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"method": None}, "'method' is a required property"),
        ({"method": "gird"}, "gird"),
        ({"parameters": {"seed": {"min": 1, "max": 0.5}}}, "seed"),
        ({"parameters": {"seed": {"values": [1, [2]]}}}, "seed: [2] is no plain value"),
        ({"parameters": {"seed": {"values": 5}}}, "seed"),
        ({"parameters": {1: {"value": 2}, "seed": {"value": 3}}}, "the parameter 1 is no name"),
        ({"parameters": {"run_dir": {"values": ["a", None]}}}, "run_dir: None is no plain value"),
        ({"parameters": {"policy": {"values": ["full", "a,b"]}}}, "'a,b' is no plain value"),
        ({"parameters": {"policy": {"parameters": {"sink": {"value": 3}}}}}, "is no plain value"),
        ({"command": ["${env}", "${interpreter}", "${program}", "${args}"]}, "Hydra takes key=value"),
        ({"program": "train.py"}, "program is train.py"),
        ({"parameters": {"hydra.launcher._target_": {"values": ["os.system"]}}}, "a sweep file may not set hydra"),
        ({"command": [*COMMAND[:3], "hydra/launcher=ray", COMMAND[-1]]}, "a sweep file may not set hydra"),
        ({"command": [*COMMAND[:3], "plugins=[json]", COMMAND[-1]]}, "may name packages with settings of their own"),
        ({"method": "bayes", "parameters": {"seed": {"min": 0, "max": 9}}}, "needs a metric"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path, change, expected):
    config = {"program": "harness/run.py", "command": COMMAND, "method": "grid", "parameters": {"seed": {"values": [0]}}} | change
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(ValueError) as error:
        load(path)
    assert expected in str(error.value)
    with pytest.raises(ValueError, match="s.yaml"):
        options([str(path)])


def test_without_the_search_package_it_says_which_to_install():
    """Where the folder of sweep files is found in its place, too."""
    for hidden in ("sys.modules['sweeps'] = None", "sys.modules['sweeps'] = types.ModuleType('sweeps')"):
        found = subprocess.run([sys.executable, "-c", f"import sys, types; {hidden}; import harness.sweeping.local"], capture_output=True, text=True, cwd=ROOT)
        assert found.returncode == 1 and "pip install -e '.[sweep]'" in found.stderr and "Traceback" not in found.stderr


def test_what_a_point_sets_cannot_be_set_for_all(tmp_path):
    for given in ("seed=7", "++seed=7"):
        with pytest.raises(ValueError, match="seed differs from point to point"):
            options([str(sweep_file(tmp_path, {"seed": {"values": [0, 1]}})), given])


def test_markup_in_names_is_shown_as_it_is(capsys):
    from harness.sweeping.display import Board
    from harness.sweeping.point import Point

    Board("[red]x[/red]", "quality/x", 1, 1, 0).line(Point({"policy": "[bold]p"}, (), Path("e")), "failed: [link=x]y", 1)
    assert "policy=[bold]p: failed: [link=x]y" in capsys.readouterr().out


def test_a_sweep_that_goes_on_says_what_it_has(capsys):
    from harness.sweeping.display import Board

    Board("s", "quality/x", 1, 4, 0)
    assert not capsys.readouterr().out
    Board("s", "quality/x", 1, 4, 2)
    assert capsys.readouterr().out == "s: 2 of 4 points are finished\n"


def test_the_command_line_is_checked(tmp_path):
    path = str(sweep_file(tmp_path, {"seed": {"values": [0, 1]}}))
    assert options([path, "jobs=2", "name=other", "threads=3"]) == Options(load(Path(path)), ("progress=false", "name=other", "threads=3"), 2, None)
    mistakes = {"jobs=0": "from 1", "seed=3": "seed differs from point to point", "world.trajectoires=3": "Did you mean", "run_dir=x": "run_dir"}
    for wrong, expected in mistakes.items():
        with pytest.raises((ValueError, SystemExit), match=expected):
            options([path, wrong])
    search = str(sweep_file(tmp_path, {"seed": {"values": [0, 1]}}, method="random"))
    with pytest.raises(ValueError, match="count=30"):
        options([search])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_searches_repeat_from_what_is_on_disk(tmp_path, monkeypatch):
    """Random and bayes draw the same points at every start, as plain Python values; bayes finds where the metric is low."""
    space = {"policy.selector.metres": {"min": 0.0, "max": 4.0}, "seed": {"values": [0, 1]}, "policy": {"value": "worldkv"}}
    file = load(sweep_file(tmp_path, space, method="random"))
    assert file.points(6) == file.points(6) == file.points(9)[:6]
    assert {type(v) for p in file.points(6) for v in p.values()} == {float, int, str}
    file = load(sweep_file(tmp_path, space, method="bayes", metric={"name": "m", "goal": "minimize", "target": 0.01}))
    assert file.reached(0.005) and not file.reached(0.02)
    tried: list[Tried] = []
    for i in range(12):
        point = file.suggest(i, tried)
        assert point == file.suggest(i, tried)
        tried.append(Tried(point, float("nan") if i == 2 else (point["policy.selector.metres"] - 1) ** 2))
    assert abs(min(tried[6:], key=lambda t: t.value).parameters["policy.selector.metres"] - 1) < 0.6
    file.suggest(12, [*tried, Tried(tried[0].parameters, None)])
    monkeypatch.chdir(tmp_path)
    common = ("name=s", *TINY)
    for i in (1, 0):
        resolve(tried[i].parameters, common, Path("outputs/s")).begin(file.digest, i)
    assert [p.parameters for p in known(Path("outputs/s"), file.digest, common)] == [t.parameters for t in tried[:2]]
    assert len(known(Path("outputs/s"), file.digest, (*common, "threads=3"))) == 2, "by how many threads decides nothing"
    assert known(Path("outputs/s"), file.digest, (*common, "world.degrees=5")) == [], "of other settings"


def test_a_bayes_search_learns_from_what_it_has_seen(tmp_path):
    """Where small values are good it goes on there, and where large ones are, there."""
    file = tmp_path / "b.yaml"
    parameters = {"policy.theta": {"min": 0.0, "max": 1.0}}
    config = {"program": "harness/run.py", "command": [*COMMAND], "method": "bayes", "metric": {"name": "m", "goal": "maximize"}, "parameters": parameters}
    file.write_text(yaml.safe_dump(config))
    search = load(file)
    seen = [i / 15 for i in range(16)]
    means = []
    for good in (0.15, 0.85):
        tried = [Tried({"policy.theta": x}, -((x - good) ** 2)) for x in seen]
        means.append(sum(float(search.suggest(i, tried)["policy.theta"]) for i in range(20, 28)) / 8)
    assert means[0] < 0.35 and means[1] > 0.65, means


def test_points_are_forks_of_a_process_that_has_imported_all_that_they_need():
    """What an evaluation imports late, of ours and of Lightning, is imported by what is preloaded, so that a sweep waits for it once."""
    found, queue = set[str](), list(PRELOADED)
    while queue:
        if (name := queue.pop()) not in found and (file := ROOT / f"{name.replace('.', '/')}.py").is_file():
            queue += [m for node in ast.parse(file.read_text()).body for m in imported(node)]
        found.add(name)
    sources = [(ROOT / f"harness/evaluation/{name}.py").read_text() for name in ("evaluate", "predict")]
    late = {m for source in sources for node in ast.walk(ast.parse(source)) for m in imported(node)}
    wanted = {m for m in late if m.startswith(("harness.", "metrics.", "lightning"))} - {"lightning.fabric.plugins.environments.lightning"}
    assert {"lightning", "metrics.metric_set"} <= wanted <= found


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []

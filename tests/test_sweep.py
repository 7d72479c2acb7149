"""Sweeps: the files, the local runner, its kills and failures. Everything runs on the tiny backbone."""

import ast
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import yaml

from harness.sweeping.file import Tried, load, overrides_of
from harness.sweeping.local import PRELOADED, Options, Runner, options
from harness.sweeping.point import known, resolve
from tests.commands import Command
from tests.conftest import ROOT
from tests.test_policies import MATRIX

FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
TINY = ["backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "videos=0"]
LONG = [*TINY, "world.trajectories=5", "world.specs=[R90L90R90L90]"]
SLOW = os.environ.get("WORLDKV_SLOW") == "1"  # kill the real command ten times: minutes
KILLS = 10 if SLOW else 4
COMMAND = ["${env}", "${interpreter}", "${program}", "name=s", "${args_no_hyphens}"]


def sweep_file(folder: Path, parameters: dict, **more) -> Path:
    config = {"program": "harness/run.py", "command": COMMAND, "method": "grid", "parameters": parameters} | more
    (folder / "s.yaml").write_text(yaml.safe_dump(config))
    return folder / "s.yaml"


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
    with pytest.raises(ValueError, match="s.yaml: "):
        options([str(path)])


def test_markup_in_names_is_shown_as_it_is(capsys):
    from harness.sweeping.display import Board
    from harness.sweeping.point import Point

    Board("[red]x[/red]", "quality/x", 1, 1, 0).line(Point({"policy": "[bold]p"}, (), Path("e")), "failed: [link=x]y", 1)
    assert "policy=[bold]p: failed: [link=x]y" in capsys.readouterr().out


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
    assert known(Path("outputs/s"), file.digest, (*common, "seed=1")) == [], "of other settings"


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


@pytest.fixture(scope="module")
def forks():
    """Processes that are forks of one that has imported everything: seconds less for each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "tests.test_sweep"])
    return context


def _round(folder: str, arguments: list[str]) -> None:
    """The runner as main() starts it, but with forks of this process."""
    os.setsid()  # a tree of its own, to be killed
    os.chdir(folder)
    chosen = options(arguments)
    os._exit(Runner(chosen, Path("outputs/s"), multiprocessing.get_context("fork")).run())


def command(folder: Path, arguments: list[str]) -> Command:
    return Command("sweep.py", *arguments, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(folder)}, session=True)


def kill(process, tree: bool) -> None:
    """SIGKILL the sweep with all its processes, or only the sweep, whose processes must then follow by themselves."""
    try:
        os.killpg(process.pid, signal.SIGKILL) if tree else os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # no tree yet
        os.kill(process.pid, signal.SIGKILL)


def outcome(folder: Path) -> dict[str, object]:
    """All that a sweep found, less what the clock and the machine decide."""
    found: dict[str, object] = {}
    for run in sorted(p for p in (folder / "outputs" / "s").iterdir() if p.is_dir()):
        if (run / "error.txt").exists():
            found[run.name] = (run / "error.txt").read_text().strip().splitlines()[-1]
            continue
        results = json.loads((run / "results.json").read_text())
        summary = {k: v for k, v in results["summary"].items() if not k.startswith(("cost/fps", "cost/latency", "cost/share", "cost/peak"))}
        rows = [json.loads(line) for line in (run / "trajectories.jsonl").read_text().splitlines()]
        records = [json.loads(p.read_text()) for p in sorted((run / "trajectories").glob("[!.]*.json"))]
        assert [r["name"] for r in rows] == [r["name"] for r in records], "every trajectory once"
        assert [{"name": r["name"], "error": "", **r["values"]} for r in records] == rows, "tables and records are of one run"
        pairs = (run / "pairs.csv").read_text()
        found[run.name] = (summary, results["run"]["noise"], pairs, [r["pairs"] for r in records])
    return found


GRID = {"policy": {"values": ["sliding", "sink_recent"]}, "policy.recent": {"values": [12, 9]}}


def test_a_sweep_killed_several_times_ends_with_the_results_of_an_undisturbed_one(tmp_path, forks):
    """SIGKILL at random moments: before anything, between points, within trajectories. Nothing is lost, nothing runs twice."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [str(sweep_file(tmp_path, GRID)), "jobs=2", *LONG]
    for folder in (whole, killed):
        folder.mkdir()
    undisturbed = command(whole, arguments)
    rng, kills, written = random.Random(7), 0, []
    while kills < KILLS:
        before = len(list(killed.glob("outputs/s/*/trajectories/[!.]*.json")))
        process = command(killed, arguments) if SLOW else forks.Process(target=_round, args=(str(killed), arguments))
        if not SLOW:
            process.start()
        alive = process.is_alive if not SLOW else lambda p=process: p.poll() is None
        while alive() and kills % 2 and len(list(killed.glob("outputs/s/*/trajectories/[!.]*.json"))) == before:
            time.sleep(0.01)  # every second kill comes soon after a trajectory was finished
        time.sleep(rng.uniform(0, 0.5 if kills % 2 else 8 if SLOW else 1.5))
        if not alive():
            break
        kill(process, tree=rng.random() < 0.7)
        process.wait() if SLOW else process.join()
        kills += 1
        written.append({p: p.stat().st_mtime_ns for p in killed.glob("outputs/s/*/trajectories/[!.]*.json")})
    assert kills == KILLS, f"the sweep was over after {kills} kills: {len(written[-1])} trajectories"
    assert KILLS // 2 <= len(written[-1]) < 20, "the kills came too early or too late to show anything"
    last = forks.Process(target=_round, args=(str(killed), arguments))
    last.start()
    last.join()
    assert last.exitcode == 0
    out, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, out
    assert out.count("quality/psnr_revisit ") >= 4 and "[4/4]" in out and "results: outputs/s" in out
    assert outcome(killed) == outcome(whole)
    assert len(outcome(whole)) == 4
    for earlier in written:
        assert all(p.stat().st_mtime_ns == at for p, at in earlier.items()), "a finished trajectory ran again"


def test_a_failing_point_is_recorded_and_the_rest_goes_on(tmp_path, forks):
    grid = {"policy": {"values": ["worldkv", "worldvk"]}, "policy.sink": {"values": [3, -1]}}
    arguments = [str(sweep_file(tmp_path, grid)), "jobs=2", *TINY]

    def again() -> int:
        process = forks.Process(target=_round, args=(str(tmp_path), arguments))
        process.start()
        process.join()
        return process.exitcode

    assert again() == 3, "one point fails as it runs, two have no config"
    errors = sorted((tmp_path / "outputs" / "s").glob("*/error.txt"))
    assert [p.parent.name.split("-")[0] for p in errors] == ["invalid", "invalid", "worldkv"]
    assert "Traceback" in errors[2].read_text() and "policy.sink=-1: use a whole number from 0" in errors[2].read_text().splitlines()[-1]
    assert "worldvk" in errors[0].read_text() and "sliding" in errors[0].read_text(), "the options are listed"
    (good,) = (tmp_path / "outputs" / "s").glob("*/results.json")
    at = good.stat().st_mtime_ns
    assert json.loads((good.parent / "point.json").read_text())["parameters"] == {"policy": "worldkv", "policy.sink": 3}
    assert again() == 3, "failed points are tried again"
    assert good.stat().st_mtime_ns == at, "good ones are not"


def _evaluate(folder: str, begin) -> None:
    from harness.evaluation.evaluate import evaluate
    from harness.settings.command_line import CONF, composed

    os.chdir(folder)
    cfg, choices = composed(CONF, ["policy=worldkv", *TINY, "name=s", "videos=1", "threads=1", "progress=false"])
    begin.wait()
    evaluate(cfg, choices, "worldkv")


def test_several_writers_of_one_evaluation_end_with_one_whole_result(tmp_path, forks):
    """Three processes evaluate the same settings in the same folder at once, as agents on a shared file system may."""
    begin = forks.Barrier(3)
    processes = [forks.Process(target=_evaluate, args=(str(tmp_path), begin)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * 3
    assert len(outcome(tmp_path)) == 1
    (run,) = (tmp_path / "outputs" / "s").glob("worldkv-*")
    summary = json.loads((run / "results.json").read_text())["summary"]
    values = [json.loads(p.read_text())["values"] for p in (run / "trajectories").glob("[!.]*.json")]
    for key, entry in summary.items():
        assert entry["mean"] == pytest.approx(sum(v[key] for v in values) / len(values), rel=1e-12), "the summary is of these very records"
    assert not list(tmp_path.rglob("*.partial*")), "no litter"


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

"""Build a saved W&B workspace and a report of an experiment: python harness/dashboard.py EXPERIMENT (needs a W&B login)

  EXPERIMENT        its name: name=... of the main job, or of the sweep file; W&B calls it the group
  entity=NAME       whose project (default: yours)
  project=NAME      default worldkv-harness
  sweep=FILE        whose parameters span the grid plots (default: sweeps/EXPERIMENT.yaml if there is one)
  only=workspace    or only=report

Both show the table of runs, quality against stored bytes, attended tokens and FPS, the swept parameters, cost and memory over the
rollout, and pictures and videos. Without an account, harness/run.py and harness/sweep.py print the same comparison.
"""

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from harness.reporting.columns import columns_of, leading, revisits, shipped
from harness.results.run_folder import RunFolder
from harness.settings.command_line import ROOT
from harness.settings.entry_point import entry_point, usage
from metrics.column import Column

if TYPE_CHECKING:  # the package takes seconds to import, and is an extra
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws

CURVES = {
    "cost/fps": "FPS",
    "cost/attended_tokens": "tokens attended",
    "cost/window_bytes": "window bytes",
    "cost/bank_bytes": "bank bytes",
    "policy/unreachable_frames": "past frames that nothing could reach",
}
MEDIA = ("video/rollout_0", "video/pairs_0", "picture/frames", "picture/chunks")
ROOM = 6  # columns up to this rank stand in the table of runs


@dataclass(frozen=True)
class Options:
    """parameters: what the experiment varies, as config keys."""

    experiment: str
    entity: str
    project: str
    parameters: tuple[str, ...]
    only: str


def options(arguments: Sequence[str]) -> Options:
    """Read the command line. Raises ValueError that says what is wrong, SystemExit for help and for what is no command line."""
    given = dict(a.split("=", 1) for a in arguments if "=" in a)
    names = [a for a in arguments if "=" not in a]
    if {"-h", "--help"} & set(names):
        print(__doc__)
        raise SystemExit(0)
    if len(names) != 1:
        usage(f"error: give the name of one experiment\n{__doc__}")
    if unknown := given.keys() - {"entity", "project", "sweep", "only"}:
        raise ValueError(f"there is no setting {', '.join(sorted(unknown))}; there are entity, project, sweep and only")
    if given.get("only", "report") not in ("workspace", "report"):
        raise ValueError(f"only={given['only']}: use workspace or report")
    file = Path(given["sweep"]) if "sweep" in given else ROOT / "sweeps" / f"{names[0]}.yaml"
    if "sweep" in given and not file.is_file():
        raise ValueError(f"sweep={file} is no file")
    values = _parameters(file) if file.is_file() else {"policy": {}, "seed": {}}
    varied = tuple(k for k, v in values.items() if "value" not in v)
    return Options(names[0], given.get("entity", ""), given.get("project", "worldkv-harness"), varied, given.get("only", ""))


def _parameters(file: Path) -> dict[str, dict]:
    """What a sweep file varies. Raises ValueError for what is no sweep file."""
    try:
        values = yaml.safe_load(file.read_text())["parameters"]
        if isinstance(values, dict) and all(isinstance(v, dict) for v in values.values()):
            return values
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        pass
    raise ValueError(f"sweep={file} is no sweep file: it has no `parameters`, each with `values`")


def columns(experiment: str) -> list[Column]:
    """What the experiment's runs have on this machine; without any here, what the shipped metrics give."""
    found = [results for path in sorted((Path("outputs") / experiment).glob("*/results.json")) if (results := RunFolder(path.parent).results())]
    return columns_of(found) or shipped()


def sections(parameters: Sequence[str], shown: Sequence[Column]) -> dict[str, list]:
    """The panels, by heading: every quality of a revisit against the costs. Two parameters also make a heat map, coloured by the
    first quality."""
    import wandb_workspaces.reports.v2.interface as wr

    from harness.tracking.wandb_run import PAIRS, setting

    qualities = [c for c in revisits(shown) if c.rank < ROOM - 1] or [c for c in [leading(shown)] if c]
    if not qualities:
        raise ValueError("the runs of this experiment have no score to show: neither revisit pairs nor recall probes")
    costs = [c for c in shown if c.group != "quality" and c.better and c.rank < 4]
    main = wr.SummaryMetric(qualities[0].key)
    pareto = [
        wr.ScatterPlot(
            title=f"{y.heading} against {x.heading}", x=wr.SummaryMetric(x.key), y=wr.SummaryMetric(y.key), running_ymax=y.better > 0, running_ymin=y.better < 0
        )
        for y in qualities
        for x in costs
    ]
    axes = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(setting(p)), display_name=p) for p in parameters]
    axes += [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(c.key), display_name=c.heading, inverted=c.better < 0) for c in (*costs, *qualities)]
    grid: list = [wr.ParallelCoordinatesPlot(title="all parameters", columns=axes), wr.ParameterImportancePlot(with_respect_to=qualities[0].key)]
    if len(parameters) >= 2:
        x, y = (wr.SummaryMetric(setting(p)) for p in parameters[:2])
        grid.insert(0, wr.ScatterPlot(title=f"{qualities[0].heading} over {parameters[0]} and {parameters[1]}", x=x, y=y, z=main))
    return {
        "Quality against cost": pareto,
        "What was varied": grid,
        "Over the rollout": [wr.LinePlot(title=title, x="frame", y=[key]) for key, title in CURVES.items()],
        "Videos and pictures": [wr.MediaBrowser(title=key, media_keys=[key], num_columns=2) for key in MEDIA],
        "Revisit pairs": [wr.WeavePanelSummaryTable(table_name=PAIRS), wr.RunComparer(diff_only="split")],
    }


def workspace(o: Options) -> "ws.Workspace":
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=o.entity,
        project=o.project,
        name=o.experiment,
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections(o.parameters, columns(o.experiment)).items()],
        settings=ws.WorkspaceSettings(x_axis="frame"),
        runset_settings=ws.RunsetSettings(filters=[ws.Metric("Group") == o.experiment], pinned_columns=_columns(o)),
    )


def report(o: Options) -> "wr.Report":
    """Raises what W&B raises: a runset looks its project up."""
    import wandb_workspaces.reports.v2.interface as wr
    from wandb_workspaces import expr

    def runs() -> "wr.Runset":
        return wr.Runset(entity=o.entity, project=o.project, name=o.experiment, filters=[expr.Metric("Group") == o.experiment], visible_columns=_columns(o))

    blocks: list = [wr.TableOfContents(), wr.H1("Runs"), wr.PanelGrid(runsets=[runs()], panels=[wr.RunComparer(diff_only="split")])]
    for name, panels in sections(o.parameters, columns(o.experiment)).items():
        blocks += [wr.H1(name), wr.PanelGrid(runsets=[runs()], panels=panels)]
    about = "Quality on revisited views against what the memory costs. The same backbone, trajectories and noise: runs differ by the policy alone."
    return wr.Report(entity=o.entity, project=o.project, title=o.experiment, description=about, blocks=blocks, width="fluid")


def _columns(o: Options) -> list[str]:
    from harness.tracking.wandb_run import setting

    keys = [c.key for c in columns(o.experiment) if c.rank < ROOM]
    return [f"summary:{k}" for k in dict.fromkeys((*(setting(p) for p in ("policy", "seed", *o.parameters)), *keys))]


@entry_point("run it again")
def main() -> None:
    """Entry point: prints the addresses of what it has saved."""
    chosen = options(sys.argv[1:])
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ValueError("this needs the package wandb-workspaces: pip install -e '.[dashboard]'")
    from harness.tracking.wandb_server import answers, logged_in, server

    if not logged_in():
        raise ValueError(f"a dashboard is kept by W&B and needs a login there: run `wandb login` (no key for {server()})")
    if problem := answers(server()):
        raise ValueError(f"W&B at {server()} cannot be used now: {problem}")
    import wandb

    try:
        entity = chosen.entity or wandb.Api(timeout=20).default_entity
        if not entity:
            raise ValueError("W&B names no default entity for this key: give entity=NAME")
        chosen = Options(chosen.experiment, entity, chosen.project, chosen.parameters, chosen.only)
        for name, build in (("workspace", workspace), ("report", report)):
            if chosen.only in ("", name):
                print(f"{name}: {build(chosen).save().url}")
    except wandb.Error as error:
        raise ValueError(str(error)) from error


if __name__ == "__main__":
    main()

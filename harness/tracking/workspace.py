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

from harness.settings.command_line import ROOT

if TYPE_CHECKING:  # the package takes seconds to import, and is an extra
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws

QUALITY = {"quality/psnr_revisit": "PSNR", "quality/lpips_revisit": "LPIPS"}
COST = {"cost/bank_bytes": "bank bytes", "cost/attended_tokens": "tokens attended", "cost/fps_mean": "FPS"}
CURVES = {
    "cost/fps": "FPS",
    "cost/attended_tokens": "tokens attended",
    "cost/window_bytes": "window bytes",
    "cost/bank_bytes": "bank bytes",
    "policy/unreachable_frames": "past frames that nothing could reach",
}
TABLE = (*QUALITY, "quality/ssim_revisit", "quality/psnr_reference", *COST, "cost/window_bytes", "cost/unreachable_frames")
MEDIA = ("video/rollout_0", "video/pairs_0", "frames", "chunks")


@dataclass(frozen=True)
class Options:
    """parameters: what the experiment varies, as config keys."""

    experiment: str
    entity: str
    project: str
    parameters: tuple[str, ...]
    only: str


def options(arguments: Sequence[str]) -> Options:
    """Read the command line. Raises SystemExit that says what is wrong."""
    given = dict(a.split("=", 1) for a in arguments if "=" in a)
    names = [a for a in arguments if "=" not in a]
    if len(names) != 1 or {"-h", "--help"} & set(names):
        raise SystemExit(__doc__)
    if unknown := given.keys() - {"entity", "project", "sweep", "only"}:
        raise SystemExit(f"error: there is no setting {', '.join(sorted(unknown))}; there are entity, project, sweep and only")
    if given.get("only", "report") not in ("workspace", "report"):
        raise SystemExit(f"error: only={given['only']}: use workspace or report")
    file = Path(given["sweep"]) if "sweep" in given else ROOT / "sweeps" / f"{names[0]}.yaml"
    if "sweep" in given and not file.is_file():
        raise SystemExit(f"error: sweep={file} is no file")
    values = yaml.safe_load(file.read_text())["parameters"] if file.is_file() else {"policy": {}, "seed": {}}
    varied = tuple(k for k, v in values.items() if "value" not in v)
    return Options(names[0], given.get("entity", ""), given.get("project", "worldkv-harness"), varied, given.get("only", ""))


def sections(parameters: Sequence[str]) -> dict[str, list]:
    """The panels, by heading. Two parameters also make a heat map: a grid of points coloured by PSNR."""
    import wandb_workspaces.reports.v2.interface as wr

    from harness.tracking.wandb_run import setting

    pareto = [
        wr.ScatterPlot(
            title=f"{quality} against {cost}", x=wr.SummaryMetric(x), y=wr.SummaryMetric(y), running_ymax=quality == "PSNR", running_ymin=quality == "LPIPS"
        )
        for y, quality in QUALITY.items()
        for x, cost in COST.items()
    ]
    columns = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(setting(p)), display_name=p) for p in parameters]
    columns += [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(k), display_name=v, inverted=v == "LPIPS") for k, v in (COST | QUALITY).items()]
    grid: list = [wr.ParallelCoordinatesPlot(title="all parameters", columns=columns), wr.ParameterImportancePlot(with_respect_to=next(iter(QUALITY)))]
    if len(parameters) >= 2:
        x, y = parameters[:2]
        grid.insert(
            0,
            wr.ScatterPlot(
                title=f"PSNR over {x} and {y}", x=wr.SummaryMetric(setting(x)), y=wr.SummaryMetric(setting(y)), z=wr.SummaryMetric(next(iter(QUALITY)))
            ),
        )
    return {
        "Quality against cost": pareto,
        "What was varied": grid,
        "Over the rollout": [wr.LinePlot(title=title, x="frame", y=[key]) for key, title in CURVES.items()],
        "Videos and pictures": [wr.MediaBrowser(title=key, media_keys=[key], num_columns=2) for key in MEDIA],
        "Revisit pairs": [wr.WeavePanelSummaryTable(table_name="pairs"), wr.RunComparer(diff_only="split")],
    }


def workspace(o: Options) -> "ws.Workspace":
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=o.entity,
        project=o.project,
        name=o.experiment,
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections(o.parameters).items()],
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
    for name, panels in sections(o.parameters).items():
        blocks += [wr.H1(name), wr.PanelGrid(runsets=[runs()], panels=panels)]
    about = "Quality on revisited views against what the memory costs. The same backbone, trajectories and noise: runs differ by the policy alone."
    return wr.Report(entity=o.entity, project=o.project, title=o.experiment, description=about, blocks=blocks, width="fluid")


def _columns(o: Options) -> list[str]:
    from harness.tracking.wandb_run import setting

    return [f"summary:{k}" for k in dict.fromkeys((*(setting(p) for p in ("policy", "seed", *o.parameters)), *TABLE))]


def main() -> None:
    """Entry point: prints the addresses of what it has saved."""
    chosen = options(sys.argv[1:])
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise SystemExit("error: this needs the package wandb-workspaces: pip install -e '.[dashboard]'")
    from harness.tracking.wandb_run import answers, logged_in, server

    if not logged_in():
        raise SystemExit(f"error: a dashboard is kept by W&B and needs a login there: run `wandb login` (no key for {server()})")
    if problem := answers(server()):
        raise SystemExit(f"error: W&B at {server()} cannot be used now: {problem}")
    import wandb

    try:
        entity = chosen.entity or wandb.Api(timeout=20).default_entity
        if not entity:
            raise SystemExit("error: W&B names no default entity for this key: give entity=NAME")
        chosen = Options(chosen.experiment, entity, chosen.project, chosen.parameters, chosen.only)
        for name, build in (("workspace", workspace), ("report", report)):
            if chosen.only in ("", name):
                print(f"{name}: {build(chosen).save().url}")
    except (wandb.Error, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()

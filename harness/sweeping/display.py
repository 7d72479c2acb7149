"""What a sweep shows: its best points in a table, what runs now, a progress bar with the time left."""

import time
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from harness.reporting.columns import columns_of
from harness.reporting.terminal import Part, console, fitted, heading
from harness.sweeping.point import Point, Summary, mean_of
from metrics.column import Column


class TimeLeft(ProgressColumn):
    """The mean time of a point so far, times the points left. Points are long: what rich estimates forgets them."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields["before"]
        if not done or task.total is None or task.finished:
            return Text("")
        left = (time.monotonic() - task.fields["since"]) / done * (task.total - task.completed)
        return Text(f"about {int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d} left", style="cyan")


class Board:
    """The display. On a terminal it stays in place; elsewhere every end of a point is a line."""

    def __init__(self, name: str, metric: str, sign: int, total: int, before: int) -> None:
        self.console = console()
        self._columns: list[Column] = []
        self._name, self._metric, self._sign, self._total = name, metric, sign, total
        bar = (TextColumn(escape(name)), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeLeft(), TextColumn("{task.fields[failed]}"))
        self._bar = Progress(*bar)
        self._task = self._bar.add_task("points", total=total, completed=before, before=before, since=time.monotonic(), failed="")
        self._live = Live(console=self.console, refresh_per_second=2, transient=True) if self.console.is_terminal else None

        if before:
            self.console.print(f"{name}: {before} of {total or 'its'} points are finished", markup=False, highlight=False)

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, done: Mapping[Point, Summary], running: Sequence[Point], failed: int) -> None:
        self._bar.update(self._task, completed=len(done) + failed, failed=f"[red]{failed} failed" if failed else "")
        if self._live:
            now = [f"[dim]running: {escape(_title(p))} ({p.records()} trajectories done)" for p in running]
            self._live.update(Group(self.table(done, 8), *now, self._bar))

    def line(self, point: Point, how: str, seen: int) -> None:
        if not self._live:
            self.console.print(f"\\[{seen}/{self._total}] {escape(_title(point))}: {escape(how)}", highlight=False)

    def table(self, done: Mapping[Point, Summary], most: int) -> RenderableType:
        """The best points by the sweep's metric, with its 95 % interval over trajectories, and what sets them apart."""
        if not done:
            return Text(f"{self._name}: no point is finished yet")
        ranked = sorted(done.items(), key=lambda item: -self._sign * mean_of(item[1], self._metric, -self._sign * float("inf")))
        names = list(dict.fromkeys(k for p in done for k in p.parameters))
        varied = [k for k in names if len({p.parameters.get(k) for p in done}) > 1] or names[:1]
        self._columns = self._columns or columns_of(results for p in list(done)[:1] if (results := p.results()))
        shown = [c for c in self._columns if any(c.key in s for s in done.values())]
        if self._metric not in {c.key for c in shown}:
            shown.insert(0, Column(self._metric, self._metric, self._metric, "quality", 4, rank=0))
        best = ranked[:most]
        first, *others = ([_short(p.parameters.get(k, "")) for p, _ in best] for k in varied)
        names, *settings = (Part(k.removeprefix("policy."), 0, cells, [""] * len(best)) for k, cells in zip(varied, (first, *others), strict=True))
        values = [Part(heading(c), c.rank, [self._cell(c, s) for _, s in best], [""] * len(best)) for c in shown]
        table, _ = fitted(names, [*settings, *values], self.console.width)
        return Group(Text(f"{self._name}: {'best ' if len(done) > most else ''}points by {self._metric}"), Text(""), table)

    def _cell(self, column: Column, summary: Summary) -> str:
        entry = summary.get(column.key)
        if entry is None:
            return "-"
        ends = entry["ci95"] if column.key == self._metric else None
        return column.show(entry["mean"]) + (f" [{', '.join(map(column.show, ends))}]" if ends else "")


def _title(point: Point) -> str:
    return " ".join(f"{k}={_short(v)}" for k, v in point.parameters.items())


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

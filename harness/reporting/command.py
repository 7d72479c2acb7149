"""Compare the runs of an experiment: python harness/report.py outputs/EXPERIMENT

Prints the comparison as a table and writes outputs/EXPERIMENT/report/, whose index.html opens from disk, without network.
"""

import argparse
import json
import sys
from pathlib import Path

from harness.settings.entry_point import entry_point

FORMATS = ("table", "md", "latex", "csv", "json")


@entry_point("run it again")
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="a folder of runs, such as outputs/NAME")
    parser.add_argument("--format", choices=FORMATS, default="table", help="what is printed (default: table)")
    parser.add_argument("--baseline", help="the run that others are compared with (default: full)")
    parser.add_argument("--out", type=Path, help="where the report is written (default: EXPERIMENT/report)")
    parser.add_argument("--films", type=int, help="copy at most so many videos a run (default: all)")
    parser.add_argument("--effect", type=float, help="say how many trajectories show a difference of so much in a column, in its unit (dB), and end")
    parser.add_argument("--column", default="", help="of --effect, such as recall/psnr (default: the main quality)")
    parser.add_argument("--no-page", action="store_true", help="print only")
    chosen = parser.parse_args(arguments)

    from harness.reporting import compared, data, groups, notes, terminal, text  # after the arguments: --help and typos are answered at once

    if chosen.column and chosen.effect is None:
        parser.error("--column names the column of --effect; give that too, such as --effect 0.5")
    write_page = None if chosen.no_page or chosen.effect is not None else _page_writer()
    runs, unfinished = groups.read_runs(chosen.experiment)
    if chosen.effect is not None:
        print("\n".join(notes.wanted(compared.home_group(runs, chosen.baseline or "full"), chosen.baseline or "full", chosen.effect, chosen.column)))
        return
    report = data.report(chosen.experiment.resolve().name, runs, unfinished, chosen.baseline)
    runs = [r for r in runs if r.path.name not in report["unfinished"]]  # the others are damaged, and named
    written = {"md": text.markdown, "latex": text.latex, "csv": text.comma_separated}
    if chosen.format == "table":
        terminal.print_terminal(report["experiment"], runs, report["baseline"])
    elif chosen.format == "json":
        print(json.dumps(report, indent=1))
    else:
        print(written[chosen.format](runs, report["baseline"]))
    if write_page is not None:
        index = write_page(chosen.out or chosen.experiment / "report", chosen.experiment, report, chosen.films)
        print(f"report: {index}", file=sys.stderr)


def _page_writer():
    """The page's writer, unless plotly is missing: known before anything is computed."""
    try:
        from harness.reporting.page import write_page
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "plotly":
            raise
        raise ValueError("the page needs plotly: pip install -e '.[report]', or print the table alone with --no-page") from None
    return write_page


if __name__ == "__main__":
    main()

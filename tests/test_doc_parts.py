"""A table of the docs that is made in parts: rows stay where both parts were made alike, and nowhere else."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness.reporting import gains
from harness.reporting.audited import audit_table
from harness.reporting.collected import ALIKE, _check_one_table, added
from harness.reporting.columns import columns_of
from harness.reporting.crossed import cell_of, crossed_table
from harness.reporting.doctables import results_table
from harness.reporting.groups import Run, grouped, reasons
from harness.reporting.noise import KEY as OTHER_SEEDS
from harness.reporting.noise import by_first_seed, from_themselves
from harness.reporting.table import finished_runs
from harness.results.record import Record
from harness.results.statistics import paired
from tests.made_runs import NAMES, make_run

KEY = "quality/psnr_revisit"


def part(device: str, commit: str, **runs: float) -> dict:
    rows = {label: {"summary": {KEY: {"mean": mean}}, "difference": {}} for label, mean in runs.items()}
    return {k: "x" for k in ALIKE} | {"device": device, "commits": [commit], "columns": [{"key": KEY}, {"key": commit}], "runs": rows}


def test_rows_of_two_parts_stand_in_one_table():
    table = added(part("one", "b", base=30.01, new=31.0, both=29.0), part("other", "a", base=30.0, old=28.0, both=20.0), "base", "outputs/t")
    assert {k: v["summary"][KEY]["mean"] for k, v in table["runs"].items()} == {"base": 30.01, "new": 31.0, "old": 28.0, "both": 29.0}
    assert table["device"] == "other; one" and table["commits"] == ["a", "b"] and [c["key"] for c in table["columns"]] == [KEY, "a", "b"]
    again = added(part("one", "b", base=30.01), table, "base", "outputs/t")
    assert again["device"] == "other; one" and set(again["runs"]) == set(table["runs"])


@pytest.mark.parametrize("what", ALIKE)
def test_what_was_made_otherwise_is_refused(what):
    with pytest.raises(ValueError, match=f"differs from docs/results in {what}; collect it without --add"):
        added(part("one", "b", base=30.0) | {what: "y"}, part("other", "a", base=30.0), "base", "outputs/t")


def test_another_model_is_noticed():
    with pytest.raises(ValueError, match=r"base has 30\.1 dB in outputs/t and 30\.0 dB in docs/results"):
        added(part("one", "b", base=30.1), part("other", "a", base=30.0), "base", "outputs/t")
    with pytest.raises(ValueError, match="no run of base in common"):
        added(part("one", "b", new=30.1), part("other", "a", base=30.0), "base", "outputs/t")
    with pytest.raises(ValueError, match="no run of full in common"):
        added(part("one", "b", new=30.1), part("other", "a", base=30.0), "", "outputs/t")


def test_every_run_of_an_arm_has_its_cell():
    assert [cell_of(x) for x in ("worldkv", "worldkv arm=retrieved", "trained_retrieved", "trained_retrieved arm=retrieved_5/rooms_retrieved")] == [
        ("base", "worldkv"),
        ("retrieved", "worldkv"),
        ("retrieved", "its own memory"),
        ("retrieved", "its own memory, seed 5"),
    ]
    assert not any(map(cell_of, ("fov", "worldkv budget=w12", "worldkv arm=x/rooms_retrieved", "trained_control arm=retrieved_5/rooms_retrieved_old")))


def test_arms_are_compared_with_the_control_arm_under_the_same_policy():
    def runs(**means: float) -> dict:
        noise = [0.1, -0.1, 0.2, -0.2, 0.0, 0.05, -0.05, 0.3]
        return {label.replace("__", " arm="): {f"t{i}": {KEY: mean + e} for i, e in enumerate(noise)} for label, mean in means.items()}

    values = runs(worldkv=30.0, worldkv__control=31.0, worldkv__retrieved=33.0, trained_control=20.0, trained_retrieved=36.0, fov=1.0)
    table = {"runs": dict.fromkeys(values), "values": values, "trajectories": 8, "world": "houses", "protocol": "guided", "device": "one"}
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in crossed_table(KEY, table).splitlines() if line.startswith("|")]
    assert rows[0] == ["weights", "its own memory", "`worldkv`"]
    assert rows[2:] == [["base", "", "30.04 (-1.00*)"], ["control", "20.04", "31.04"], ["retrieved", "36.04 (+16.00*)", "33.04 (+2.00*)"]]
    with pytest.raises(ValueError, match="has no run with values of recall/psnr"):
        crossed_table("recall/psnr", table)


def test_an_audit_says_whose_gain_is_memory():
    """Right pages over wrong ones, where there are any, else over those of another trajectory."""

    def rows(**gains: float) -> dict:
        return {
            f"t{i}": {"recall/psnr": gains["recall"] + 0.1 * i} | {f"audit/psnr_{k}": v + 0.1 * i for k, v in gains.items() if k != "recall"} for i in range(8)
        }

    values = {"low": rows(recall=20.0, none=3.0, wrong=-0.35), "high": rows(recall=30.0, none=9.0, wrong=8.0), "state": rows(recall=25.0, none=2.0, other=1.0)}
    price = {"summary": {"cost/stored_bytes": {"mean": 2e6}, "cost/attended_tokens": {"mean": 500.0}}}
    table = {"values": values, "trajectories": 8, "world": "houses", "protocol": "guided", "seed": 0, "device": "one", "runs": {"high": price}}
    lines = [line for line in audit_table(table, str, "c.md").splitlines() if line.startswith("|")]
    cells = [[cell.strip().partition(" [")[0] for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["policy", "PSNR recall", "over `none`", "over `wrong`", "over `other`", "kept per MB", "kept per 1k tokens", "is it memory"]
    assert cells[2:] == [
        ["high", "30.35", "+9.35*", "+8.35*", "-", "4.67", "18.70", "yes"],
        ["state", "25.35", "+2.35*", "-", "+1.35*", "", "", "yes, by `other`"],
        ["low", "20.35", "+3.35*", "+0.00", "-", "", "", "not shown"],
    ]
    with pytest.raises(ValueError, match="was audited; give probes.audit"):
        audit_table(table | {"values": {"low": {"t0": {"recall/psnr": 1.0}}}}, str, "c.md")


def test_runs_of_another_seed_are_no_rows_but_tell_how_much_noise_there_is(tmp_path):
    """worldkv differs from itself by about 0.5 dB between seeds: h2o, 0.2 dB from it, lies within that; sliding does not."""
    for policy, quality in (("worldkv", 30.0), ("h2o", 30.2), ("sliding", 25.0)):
        make_run(tmp_path, policy, quality=quality)
    make_run(tmp_path, "worldkv", quality=30.5, seed=1, noise="other")
    runs, others = by_first_seed(finished_runs(tmp_path))
    _check_one_table(tmp_path, runs)
    assert len(runs) == 3 and [r.label for r in others] == ["worldkv"]
    found = from_themselves(runs, others, [KEY])
    assert found["worldkv"][KEY] == pytest.approx(0.5, abs=0.3)
    base = runs[[r.label for r in runs].index("worldkv")]
    rows = {r.label: {"summary": r.results["summary"], "difference": {} if r is base else {KEY: paired(r.values, base.values, KEY)}} for r in runs}
    table = {k: runs[0].results["run"][k] for k in ("world", "protocol", "seed", "trajectories", "device")}
    table |= {"columns": [asdict(c) for c in columns_of(r.results for r in runs)], "runs": rows}
    lines = results_table("houses_changing", table | {OTHER_SEEDS: found}, str).splitlines()
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ")[2] for line in lines if line.startswith("|")}
    assert "~" in cells["h2o"] and "~" not in cells["sliding"]
    assert "under another noise seed, runs of `worldkv` differ from those shown by up to 0." in lines[-1]
    assert "~" not in "".join(results_table("houses_changing", table, str)), "no second seed, no band"
    with pytest.raises(ValueError, match="`sliding` was run with seed 1 but not seed 0"):
        from_themselves([base], [replace(others[0], label="sliding")], [KEY])
    about = others[0].results["run"]
    for change, what in (
        ({"weights": {"weights": "others"}}, "weights"),
        ({"trajectories": 3}, "trajectories"),
        ({"config": about["config"] | {"world": {"step": 0.5}}}, "settings"),
    ):
        other = replace(others[0], results=others[0].results | {"run": about | change})
        with pytest.raises(ValueError, match=f"differ in {what}, not by the seed alone"):
            from_themselves(runs, [other], [KEY])


def test_what_two_parts_know_of_the_noise_is_put_together():
    known = part("one", "a", base=30.0, old=28.0) | {OTHER_SEEDS: {"old": {KEY: 0.2}}}
    assert added(part("one", "b", base=30.0), known, "base", "outputs/t")[OTHER_SEEDS] == {"old": {KEY: 0.2}}
    again = added(part("one", "b", base=30.0) | {OTHER_SEEDS: {"base": {KEY: 0.1}}}, known, "base", "outputs/t")
    assert again[OTHER_SEEDS] == {"old": {KEY: 0.2}, "base": {KEY: 0.1}}
    assert OTHER_SEEDS not in added(part("one", "b", base=30.0, old=27.0), known, "base", "outputs/t"), "of a row made anew nothing is known"
    assert OTHER_SEEDS not in added(part("one", "b", base=30.0), part("one", "a", base=30.0), "base", "outputs/t")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (dict(policy="full", device="another"), "are both called `full`; move one of them to another experiment"),
        (dict(policy="worldkv", names=NAMES[:3]), "mixes numbers of trajectories"),
        (dict(policy="worldkv", noise="other"), "mixes trajectories or noise"),
    ],
)
def test_a_table_is_of_runs_that_differ_by_the_policy_alone(tmp_path, more, said):
    make_run(tmp_path, "full")
    make_run(tmp_path, "sliding")
    _check_one_table(tmp_path, finished_runs(tmp_path))
    make_run(tmp_path, **more)
    with pytest.raises(ValueError, match=said):
        _check_one_table(tmp_path, finished_runs(tmp_path))


def run_of(weights: str, target: int | None) -> Run:
    about = {"comparable": "x", "backbone": "rooms", "metrics": {}, "label": "full", "policy": "full", "weights": {"weights": weights}}
    record = Record("t", {}, noise="n", probes=[] if target is None else [{"chunk": 9, "target": target, "psnr": 1.0}])
    return Run(Path(f"{weights}-{target}"), {"run": about, "summary": {}}, [record], {})


def test_runs_of_other_weights_or_probes_are_not_compared():
    """Also where settings are the same: a weights file can change under its name, and probes are no part of a rollout."""
    plain, probed, other, newer = grouped([run_of("1", None), run_of("1", 2), run_of("1", 5), run_of("2", None)])
    assert plain.group == probed.group and len({plain.group, other.group, newer.group}) == 3
    assert reasons(probed, other) == ["other recall probes"] and reasons(newer, plain) == ["other weights under the same name"]


def test_gains_are_over_the_window_without_memory_of_the_same_weights():
    noise = [0.1, -0.1, 0.2, -0.2, 0.0, 0.05, -0.05, 0.3]

    def rows(mean: float) -> dict:
        return {f"t{i}": {KEY: mean + e, "recall/psnr": mean - 5 + 2 * e} for i, e in enumerate(noise)}

    about = {"trajectories": 8, "world": "houses", "protocol": "guided"}
    tokens = about | {"values": {policy: rows(30.0) for policy in gains.MEMORIES} | {gains.UNTRAINED: rows(20.0), gains.CONTROL: rows(21.0)}}
    limited = about | {"values": {label: rows(25.0) for label in gains.MEMORIES.values() if label}}
    lines = [[c.strip() for c in line.strip("| ").split("|")] for line in gains.gains_table(tokens, limited).splitlines() if line.startswith("| `")]
    found = {policy: (trained, [cell.split(" [")[0] for cell in cells]) for policy, trained, *cells in lines}
    assert found["`worldkv`"] == ("no", ["+10.00*", "+10.00*", "+5.00*", "+5.00*"])
    assert found["`trained_retrieved`"] == ("yes", ["+9.00*", "+9.00*", "+4.00*", "+4.00*"])
    assert found["`trained_geometry`"] == ("yes", ["+9.00*"] * 4), "below the limit as it is"
    del limited["values"][gains.MEMORIES["worldkv"]]
    with pytest.raises(ValueError, match="have no values of capped inner=worldkv frames=45 codec=int4"):
        gains.gains_table(tokens, limited)

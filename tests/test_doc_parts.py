"""A table of the docs that is made in parts: rows stay where both parts were made alike, and nowhere else."""

import pytest

from harness.reporting.documents import ALIKE, added

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

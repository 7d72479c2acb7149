"""README and docs say what is true: tables are generated, links lead somewhere, commands are understood, the site builds."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from harness.playing.command import Asked
from harness.reporting import command as report_command
from harness.reporting.docstrings import described
from harness.reporting.documents import BLOCK, ENDURANCE, FOLDER, RESULTS, method_pages, pages, render
from harness.settings.command_line import check_overrides
from harness.sweeping.local import options as sweep_options
from harness.tracking.workspace import options as dashboard_options
from tests.conftest import CONF, ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = ["pip install -e . && python harness/run.py policy=worldkv", "pip install -e '.[dev]' && pytest"]
WRITTEN = pages()  # by hand; the pages of methods are generated
OTHERS = [ROOT / name for name in ("ARCHITECTURE.md", "AGENTS.md", "CONTRIBUTING.md", "CHANGELOG.md", "THIRD_PARTY.md")]
EVERY = [*WRITTEN, *sorted(set(FOLDER.glob("*.md")) - set(WRITTEN)), *OTHERS]
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")
FENCED = re.compile(r"^( *)```.*?^\1```", re.S | re.M)
ENTRY = re.compile(r"python harness/(\w+)\.py([^\n`#]*)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def anchors(page: Path) -> set[str]:
    """The slugs of a page's headings, those of what it includes too."""
    text = re.sub(r'^--8<-- "([\w./]+).*"$', lambda m: (ROOT / m.group(1)).read_text(), page.read_text(), flags=re.M)
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.M)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", h).strip().lower()) for h in headings}


def test_what_is_generated_is_current():
    assert "<!-- short -->" in README and sum(len(BLOCK.findall(page.read_text())) for page in WRITTEN) >= 10
    for page in WRITTEN:
        assert render(page, page.read_text()) == page.read_text(), f"{name_of(page)}: run make docs"
    written = method_pages()
    assert {p.stem for p in written} == {p.stem for p in (CONF / "policy").glob("*.yaml")}
    assert {p: p.read_text() for p in FOLDER.glob("*.md") if p.stem != "index"} == written, "docs/methods: run make docs"
    assert not [p.stem for p, text in written.items() if "\nSources" not in text], "every method names what it comes from"


def test_the_readme_is_short_with_one_table_of_policies_and_one_of_training():
    assert len(README.splitlines()) <= 150 and len(README.encode()) <= 10_000
    assert [block.group(1) for block in BLOCK.finditer(README)] == ["short", "trained_gains"] and len(re.findall(r"^\| --- ", README, re.M)) == 2
    table = BLOCK.search(README).group(0)
    assert len(re.findall(r"^\| \[`\w+`\]\(docs/methods/", table, re.M)) == 6
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 80


def test_the_bound_stands_under_the_true_view_alone():
    """It is the autoencoder's round trip against the truth: a revisit may score higher, since both of its views were generated."""
    bounds = 0
    for page in WRITTEN:
        for block in BLOCK.finditer(page.read_text()):
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.group(0).splitlines() if line.startswith("|")]
            for row in rows:
                if "bound of the true view" in row[0]:
                    bounds += 1
                    assert [heading for heading, cell in zip(rows[0][1:], row[1:], strict=True) if cell] == ["PSNR true view"]
    assert bounds >= 5


def test_the_two_commands_come_first():
    block = re.search(r"```\n(.*?)```", README, re.S)
    assert [line.split("   ")[0] for line in block.group(1).splitlines() if line.startswith("pip")] == COMMANDS
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text()
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


@pytest.mark.parametrize("page", EVERY, ids=name_of)
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if path.startswith("http"):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        if ROOT / "docs" in page.parents:
            assert ROOT / "docs" in target.parents, f"{name_of(page)} links to {link}, which the site does not have"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)} links to {link}; there is {', '.join(sorted(anchors(target)))}"


@pytest.mark.parametrize("page", EVERY, ids=name_of)
def test_what_is_named_exists(page):
    text = page.read_text().replace("every_other", "full")  # AGENTS.md's example, which its own test makes
    for values in re.findall(r"(?<![\w.])policy=([\w,]+)", text):
        for name in values.split(","):
            assert (CONF / "policy" / f"{name}.yaml").exists(), name
    for group in ("backbone", "world", "store", "budget", "+experiment"):
        for name in re.findall(rf"(?<![\w./]){re.escape(group)}=([a-z]\w*)", text):
            assert (CONF / group.removeprefix("+") / f"{name}.yaml").exists(), f"{group}={name}"
    for path in re.findall(r"`?((?:sweeps|conf|harness|policies|backbones|metrics|tests)/[\w./]*\w)", FENCED.sub("", text)):
        assert (ROOT / path).exists() or "|" in text[text.index(path) + len(path)], f"{name_of(page)} names {path}"


def commands():
    """Every command of README and docs that begins with an entry point, its comment left out."""
    for page in [*WRITTEN, *OTHERS]:
        text = page.read_text().replace("every_other", "full")
        for name, arguments in dict.fromkeys(ENTRY.findall(text)):
            yield pytest.param(name, shlex.split(arguments.split(" # ")[0].split("&&")[0]), id=f"{name_of(page)}: {name}{arguments}"[:120])


@pytest.mark.filterwarnings("ignore:\\s*\\S+ is validated against ConfigStore schema")  # our launcher presets bear the plugins' names
@pytest.mark.parametrize(("name", "arguments"), list(commands()))
def test_commands_are_understood(name, arguments, tmp_path, monkeypatch):
    """Overrides compose, of a sweep its first value; nothing runs."""
    assert (ROOT / "harness" / f"{name}.py").exists()
    placeholders = ("FILE", "EXPERIMENT", "[EXPERIMENT_FOLDER", "...]", "--help")
    if name in ("run", "bench", "replay", "train"):
        overrides = [_first(o) for o in OverridesParser.create().parse_overrides([a for a in arguments if a not in ("-m", "--help")])]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            compose({"bench": "bench", "replay": "replay", "train": "experiment/train_rooms"}.get(name, "config"), overrides)
    elif name == "score":
        with initialize_config_dir(str(CONF), version_base="1.3"):
            compose("config", ["world=videos", *(a for a in arguments if "=" in a and not a.startswith("system="))])
    elif name == "sweep" and not set(arguments) & set(placeholders):
        monkeypatch.chdir(ROOT)
        assert sweep_options(arguments).file
    elif name == "dashboard" and not set(arguments) & set(placeholders):
        assert dashboard_options(arguments).experiment
    elif name == "report" and arguments:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            report_command.main(arguments)
        assert stop.value.code != 2, "the arguments are not understood"  # 2 is argparse's; there is no such folder here
    elif name == "play" and not set(arguments) & {*placeholders, "--headless"}:
        asked = Asked.of(arguments)
        check_overrides(CONF, [f"policy={asked.policy.split(',')[0]}", f"budget={asked.budget}", *asked.rest])
    elif name == "calibrate" and not set(arguments) & set(placeholders):
        check_overrides(CONF, [a for a in arguments if not a.startswith("labels=") and not a.endswith("...")])
    elif name == "docs":
        assert all(Path(a).name in {p.stem for p in RESULTS.glob("*.json")} | {ENDURANCE} for a in arguments if a not in {*placeholders, "--add"})
    else:
        assert not arguments or set(arguments) & {*placeholders, "--headless"}, f"nobody looks at {name} {arguments}"


def _first(override) -> str:
    if not override.is_sweep_override():
        return override.input_line
    key = override.get_key_element()
    return f"{key}={next(iter(override.sweep_string_iterator()))}"


@dataclass
class Documented:
    """Keep the best rows (arXiv 2605.22718), _as_ it says. Uncertain: how many.

        score_i = sum_j a_ij
          for all i

    ratio: of all rows. kind: `hard` or
    soft.
    """

    ratio: float = 0.5
    kind: str = "hard"


def test_a_docstring_becomes_prose_formulas_fields_and_notes():
    found = described(Documented)
    assert found.how == (
        "Keep the best rows (arXiv 2605.22718), \\_as\\_ it says.",
        "```text\nscore_i = sum_j a_ij\n  for all i\n```",
        "- `ratio`: of all rows.\n- `kind`: `hard` or soft.",
    )
    assert found.simplified == ("Uncertain: how many.",) and found.sources == ("2605.22718",)


def test_the_site_builds_and_asks_no_network(tmp_path):
    """--strict: a dead link, a missing anchor or a page that is in no menu is an error."""
    if shutil.which("mkdocs") is None and not (Path(sys.executable).parent / "mkdocs").exists():
        pytest.skip("no mkdocs: pip install -e '.[docs]'")
    blocked = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    out = subprocess.run(command, cwd=ROOT, env=os.environ | blocked, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stdout + out.stderr
    made = list((tmp_path / "site").rglob("*.html"))
    assert len(made) >= len(list(FOLDER.glob("*.md"))) + 10
    for page in made:
        loaded = re.findall(r"<(?:link|script|img|iframe)\b[^>]*?(?:src|href)=\"?(https?:[^\">\s]+)", page.read_text())
        assert not loaded, f"{page.name} loads {loaded}"

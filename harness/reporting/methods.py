"""The pages of docs/methods, one a policy: what it does, its classes' docstrings (source, formula, what was simplified), its YAML and its row
in the bench. `python harness/docs.py` writes them; nothing in them is written by hand."""

import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from harness.reporting.docstrings import ARXIV, Described, described, escaped
from harness.settings.command_line import ROOT
from harness.settings.policy_line import policy_line

POLICIES = ROOT / "conf" / "policy"
FOLDER = ROOT / "docs" / "methods"
FAMILIES = {  # where the class that makes a policy what it is lives: what its family is called, in the order of the index
    "policies.full": "Windows and constant memories",
    "policies.sliding": "Windows and constant memories",
    "policies.sink_recent": "Windows and constant memories",
    "policies.ema": "Windows and constant memories",
    "policies.landmark": "Windows and constant memories",
    "policies.field": "Windows and constant memories",
    "policies.tempcache": "Windows and constant memories",
    "policies.pooled": "Windows and constant memories",
    "policies.lacache": "Windows and constant memories",
    "policies.bases.retrieval": "World Retrieval and World Compression",
    "policies.parts.select": "Selectors: which chunks come back",
    "policies.parts.compress": "Compressors: which rows of a chunk are stored",
    "policies.parts.place": "Placements: where RoPE puts what comes back",
    "policies.bases.token_budget": "Token budgets",
    "policies.parts.score": "Token budgets",
    "policies.parts.split": "Token budgets",
    "policies.wrappers.trained": "Trained memories",
    "policies.wrappers": "Around any policy",
}
OTHERS = "Others"
PLAIN = re.compile(r"\w+")


@dataclass(frozen=True)
class Method:
    """A policy of conf/policy. classes: those that its YAML names or puts in place of others, the most telling first. based_on: the
    policies that its YAML starts from or wraps."""

    name: str
    line: str
    yaml: str
    classes: tuple[type, ...]
    based_on: tuple[str, ...]

    @property
    def family(self) -> str:
        module = self.classes[0].__module__ if self.classes else ""
        return next((title for place, title in FAMILIES.items() if module == place or module.startswith(place + ".")), "")


def methods(folder: Path = POLICIES) -> list[Method]:
    """Every policy, by name; a variant without a class of its own belongs to the family of the policy that it starts from."""
    return [_method(file) for file in sorted(folder.glob("*.yaml"))]


def method_index(found: list[Method]) -> str:
    """The policies by family: a table each, with what every policy does in a line."""
    by_name = {m.name: m for m in found}
    rows: dict[str, list[str]] = {title: [] for title in dict.fromkeys([*FAMILIES.values(), OTHERS])}
    for method in found:
        rows[_family(method, by_name)].append(f"| [`{method.name}`]({method.name}.md) | {method.line} |")
    return "\n\n".join("\n".join([f"## {title}", "", "| policy | what it does |", "| --- | --- |", *lines]) for title, lines in rows.items() if lines)


def method_page(method: Method, found: list[Method], bench: str) -> str:
    """A policy's page. bench: its row and that of the bench's base, as a table; empty where the bench has no run of it."""
    by_name = {m.name: m for m in found}
    texts = [(c, described(c)) for c in method.classes]
    own, others = sources_of(method, by_name)
    parts = [f"# {method.name}", f"*{_family(method, by_name)}* · [all methods](index.md)", _sentence(method.line, by_name)]
    if method.based_on:
        links = ", ".join(f"[`{name}`]({name}.md)" for name in method.based_on)
        parts.append(f"Built on {links}: what is not said here is as there.")
    named = [f"Sources{which}: {_links(found)}." for which, found in (("", own), (" of what it is built on", others)) if found]
    parts += [" ".join(named)] if named else []
    parts += ["```\npython harness/run.py -m policy=" + ",".join(dict.fromkeys(["full", "worldkv", method.name])) + "\n```"]
    parts += ["## How it works", *[_class_text(c, text) for c, text in texts]] if texts else []
    if notes := [(c, text) for c, text in texts if text.simplified]:
        parts.append("## Simplified or uncertain")
        parts += [note if len(texts) == 1 else f"`{c.__name__}`: {note}" for c, text in notes for note in text.simplified]
    parts += ["## Settings", f"`conf/policy/{method.name}.yaml`:", f"```yaml\n{method.yaml.strip()}\n```"]
    if bench:
        parts += ["## In the bench", bench, "The whole table: [Methods at equal attended tokens](../results/bench.md)."]
    return "\n\n".join([*parts, "<!-- written by python harness/docs.py; change the docstrings and the YAML instead -->"]) + "\n"


def sources_of(method: Method, by_name: dict[str, Method]) -> tuple[list[str], list[str]]:
    """arXiv numbers that a policy's line names, or without any its classes, and those beside them of the policies that it is built on."""
    own = list(dict.fromkeys(ARXIV.findall(method.line) or [s for c in method.classes for s in described(c).sources]))
    others = [s for name in method.based_on for part in sources_of(by_name[name], by_name) for s in part]
    return own, [s for s in dict.fromkeys(others) if s not in own]


def _links(sources: list[str]) -> str:
    return ", ".join(f"[arXiv {s}](https://arxiv.org/abs/{s})" for s in sources)


def _class_text(found: type, text: Described) -> str:
    where = f"`{found.__module__.replace('.', '/')}.py`, class `{found.__name__}`"
    return "\n\n".join([f"{where}:", *text.how])


def _method(file: Path) -> Method:
    text = file.read_text()
    settings = yaml.safe_load(text)
    targets = [settings["_target_"]] if "_target_" in settings else []
    based_on = []
    for entry in settings.get("defaults", []):
        group, option = next(iter(entry.items())) if isinstance(entry, dict) else ("/policy", entry)
        place = _group(group)
        if option == "_self_":
            continue
        if place == "policy":
            based_on.append(option)
        else:
            targets += _targets(ROOT / "conf" / place, option)
    classes = tuple(getattr(importlib.import_module(m), c) for m, _, c in (t.rpartition(".") for t in targets))
    return Method(file.stem, policy_line(file.stem), text, classes, tuple(based_on))


def _group(key: str) -> str:
    """The folder under conf/ that an entry of a policy's defaults chooses from."""
    name = key.removeprefix("override ").partition("@")[0]
    return name.removeprefix("/") if name.startswith("/") else f"policy/{name}"


def _targets(folder: Path, option: str) -> list[str]:
    """The class of a part, its own; or that of the part that it starts from, and those that it puts in places of that one."""
    settings = yaml.safe_load((folder / f"{option}.yaml").read_text())
    if "_target_" in settings:
        return [settings["_target_"]]
    found, begun = [], []
    for entry in settings["defaults"]:
        if isinstance(entry, dict):
            group, chosen = next(iter(entry.items()))
            found += _targets(ROOT / "conf" / _group(group), chosen)
        elif entry != "_self_":
            begun += _targets(folder, entry)
    return begun + found


def _sentence(line: str, by_name: dict[str, Method]) -> str:
    first, _, rest = line.partition(" ")
    start = f"`{first}`" if first in by_name else first[:1].upper() + first[1:]
    return f"{start} {escaped(rest)}".rstrip(".") + "."


def _family(method: Method, by_name: dict[str, Method]) -> str:
    if method.family:
        return method.family
    return _family(by_name[method.based_on[0]], by_name) if method.based_on else OTHERS

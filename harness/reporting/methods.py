"""The pages of docs/methods, one a policy: what it does, its classes' docstrings (source, formula, what was simplified), its YAML and its row
in the bench. `python harness/docs.py` writes them; nothing in them is written by hand."""

import importlib
import re
from collections.abc import Iterator
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
    policies that its YAML starts from or wraps. parts: files of conf that its YAML chooses, without those that hold a class alone, and their text."""

    name: str
    line: str
    yaml: str
    classes: tuple[type, ...]
    based_on: tuple[str, ...]
    parts: dict[str, str]

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


def method_page(method: Method, found: list[Method], bench: list[str]) -> str:
    """A policy's page. bench: paragraphs, what the bench says of it."""
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
    if method.parts:
        parts += ["Of its parts:", *(f"```yaml\n# {file}\n{text}\n```" for file, text in method.parts.items())]
    parts += ["## In the bench", *bench]
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
    targets = list(_named(settings))
    based_on: list[str] = []
    files: list[Path] = []
    for entry in settings.get("defaults", []):
        group, option = next(iter(entry.items())) if isinstance(entry, dict) else ("/policy", entry)
        place = _group(group)
        if option == "_self_":
            continue
        if place == "policy":
            based_on.append(option)
        else:
            files += _files(ROOT / "conf" / place, option)
    targets += [t for part in files for t in _named(yaml.safe_load(part.read_text()))]
    classes = tuple(getattr(importlib.import_module(m), c) for m, _, c in (t.rpartition(".") for t in dict.fromkeys(targets)))
    parts = {str(part.relative_to(ROOT)): part.read_text().strip() for part in files if set(yaml.safe_load(part.read_text())) - {"_target_"}}
    return Method(file.stem, policy_line(file.stem), text, classes, tuple(based_on), parts)


def _group(key: str) -> str:
    """The folder under conf/ that an entry of a policy's defaults chooses from."""
    name = key.removeprefix("override ").partition("@")[0]
    return name.removeprefix("/") if name.startswith("/") else f"policy/{name}"


def _files(folder: Path, option: str) -> list[Path]:
    """The YAML of a part; before it those of the part that it starts from, after it those that it puts in places of that one."""
    file = folder / f"{option}.yaml"
    before: list[Path] = []
    after: list[Path] = []
    for entry in yaml.safe_load(file.read_text()).get("defaults", []):
        if isinstance(entry, dict):
            group, chosen = next(iter(entry.items()))
            after += _files(ROOT / "conf" / _group(group), chosen)
        elif entry != "_self_":
            before += _files(folder, entry)
    return [*before, file, *after]


def _named(settings: object) -> Iterator[str]:
    """The classes that settings name, from the outside in."""
    if isinstance(settings, dict):
        if "_target_" in settings:
            yield str(settings["_target_"])
        for value in settings.values():
            yield from _named(value)


def _sentence(line: str, by_name: dict[str, Method]) -> str:
    first, _, rest = line.partition(" ")
    start = f"`{first}`" if first in by_name else first[:1].upper() + first[1:]
    return f"{start} {escaped(rest)}".rstrip(".") + "."


def _family(method: Method, by_name: dict[str, Method]) -> str:
    if method.family:
        return method.family
    return _family(by_name[method.based_on[0]], by_name) if method.based_on else OTHERS

"""A class's docstring as Markdown: what it does, its formulas, what was simplified, its sources."""

import inspect
import re
import textwrap
from dataclasses import dataclass, fields, is_dataclass

ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
NOTE = re.compile(r"(?:^|(?<=[.:)] ))(?=(?:Uncertain|Simplified|Not done)\b)")
AS_IT_IS = re.compile(r"(`[^`]*`|(?<!\w)\*\w+\*(?!\w))")  # code and emphasis


@dataclass(frozen=True)
class Described:
    """how: paragraphs, lists and formulas in their order. simplified: what the docstring calls uncertain, simplified or not done.
    sources: arXiv numbers."""

    how: tuple[str, ...]
    simplified: tuple[str, ...]
    sources: tuple[str, ...]


def described(found: type) -> Described:
    """Paragraphs are parted by blank lines. One that is indented by four columns is a formula and stays as it is; one that begins with
    a field's name and a colon becomes a list of fields; of another, what begins with "Uncertain", "Simplified" or "Not done" is a note,
    to the paragraph's end."""
    names = "|".join(f.name for f in fields(found)) if is_dataclass(found) else ""
    field = re.compile(rf"(?:^|(?<=\. ))({names}): ") if names else None
    doc = inspect.getdoc(found) or ""
    how, simplified = [], []
    for block in doc.split("\n\n"):
        lines = block.strip("\n").splitlines()
        if lines and all(line.startswith("    ") for line in lines):
            how.append(f"```text\n{textwrap.dedent(chr(10).join(lines))}\n```")
        elif any(line.startswith("- ") for line in lines):
            how.append(escaped("\n".join(lines)))
        else:
            first, *notes = NOTE.split(" ".join(lines))
            how += [_fields(first.strip(), field)] if first.strip() else []
            simplified += [escaped(note.strip()) for note in notes]
    return Described(tuple(how), tuple(simplified), tuple(dict.fromkeys(ARXIV.findall(doc))))


def _fields(text: str, field: re.Pattern | None) -> str:
    if field is None or not field.match(text):
        return escaped(text)
    _, *parts = field.split(text)
    return "\n".join(f"- `{name}`: {escaped(what.strip())}" for name, what in zip(parts[::2], parts[1::2], strict=True))


def escaped(text: str) -> str:
    """Prose of a docstring, in which `*`, `_`, `<` and brackets mean themselves, but for code in backticks and single words in asterisks."""
    return "".join(part if AS_IT_IS.fullmatch(part) else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in AS_IT_IS.split(text))

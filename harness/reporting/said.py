"""What the pages of results say of a policy: their bullets that name it, for the policy's own page."""

import os
import re
from pathlib import Path

LINK = re.compile(r"\]\((?!https?:)([^)\s#]*)(#[^)\s]*)?\)")


def bullets(page: Path) -> list[str]:
    """The top-level bullets of a page that a person wrote, a line each."""
    found: list[list[str]] = []
    within = False
    for line in page.read_text().splitlines():
        if line.startswith("- "):
            found.append([line.removeprefix("- ")])
        elif within and line.startswith("  "):
            found[-1].append(line.strip())
        within = line.startswith("- ") or (within and line.startswith("  "))
    return [" ".join(lines) for lines in found]


def said_of(name: str, pages: list[Path], folder: Path) -> list[str]:
    """The bullets that name a policy, as quotations whose links lead on from `folder`."""

    def link(match: re.Match, page: Path) -> str:
        return f"]({os.path.relpath(page.parent / match[1] if match[1] else page, folder)}{match[2] or ''})"

    return [f"> {LINK.sub(lambda m, p=page: link(m, p), text)}" for page in pages for text in bullets(page) if f"`{name}`" in text]

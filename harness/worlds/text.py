"""Texts that people write: prompts in UTF-8 or UTF-16, with or without a mark of their encoding, beside what they describe."""

import codecs
from collections.abc import Sequence
from pathlib import Path

from harness.system.files import visible

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(file: Path, encoding: str | None = None) -> str:
    """A text file. encoding: what it is in, where it is none of Unicode's; those are recognised.

    Raises ValueError that names the file, where it is in a code page that nobody named: text of one code page is valid in most others.
    """
    data = file.read_bytes()
    chosen = encoding or next((name for mark, name in MARKS if data.startswith(mark)), None) or _unmarked(data)
    try:
        return data.decode(chosen)
    except LookupError:
        raise ValueError(f"world.encoding={encoding}: Python knows no such encoding; use one as cp1252, gbk, shift_jis or koi8-r") from None
    except UnicodeDecodeError as error:
        wrong = f"byte {data[error.start]:#04x} at {error.start}"
        raise ValueError(
            f"{file} is not {chosen} ({wrong}); save it as UTF-8, or name its code page: world.encoding=cp1252 (gbk, shift_jis, koi8-r, ...)"
        ) from None


def prompt_beside(folder: Path, names: Sequence[str], encoding: str | None = None) -> str:
    """The text of the file in a folder that is called one of `names`, in upper or lower case. Empty where there is none.

    Raises ValueError for several, and for text that cannot be read.
    """
    wanted = {name.lower() for name in names}
    files = [p for p in sorted(folder.iterdir()) if p.name.lower() in wanted and p.is_file() and visible(p)]
    if len(files) > 1:
        raise ValueError(f"{folder}: {' and '.join(p.name for p in files)} are both prompts; keep one of them")
    return read_text(files[0], encoding).strip() if files else ""


def _unmarked(data: bytes) -> str:
    """UTF-16 has a zero byte beside every Latin letter; text in UTF-8 has none."""
    if b"\0" not in data:
        return "utf-8"
    return "utf-16-le" if data[1::2].count(0) >= data[::2].count(0) else "utf-16-be"

"""How folders of other systems' videos are laid out, one table: plain, and the outputs of the benchmarks MIND, MemoBench and WRBench."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.worlds.layouts import memobench, mind, plain, wrbench
from harness.worlds.layouts.clip import Clip, Reading


class Layout(NamedTuple):
    """suits: whether a folder is laid out so. clips: its videos, with their paths and truths; truth: the benchmark's own data, or None."""

    suits: Callable[[Path], bool]
    clips: Callable[[Path, Path | None, Reading], Sequence[Clip]]


LAYOUTS = {
    "mind": Layout(mind.suits, mind.clips),
    "memobench": Layout(memobench.suits, memobench.clips),
    "wrbench": Layout(wrbench.suits, wrbench.clips),
    "plain": Layout(plain.suits, plain.clips),
}


def layout_of(root: Path, wanted: str = "auto") -> str:
    """The name of a folder's layout. Raises ValueError for an unknown one."""
    if wanted != "auto" and wanted not in LAYOUTS:
        raise ValueError(f"world.layout={wanted}; use auto, {', '.join(LAYOUTS)}")
    return wanted if wanted != "auto" else next(name for name, layout in LAYOUTS.items() if layout.suits(root))

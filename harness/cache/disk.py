"""The disk tier: one file a page, read ahead by a thread."""

import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from harness.cache.codecs import Codec, Packed
from harness.cache.page_files import read_page, write_page
from harness.cache.stores import PackedStore, within
from harness.settings.ranges import Limit

FULL = "finished trajectories are kept: free some space, or give the bank another disk (store.folder=DIR), and run the same command again"
DAMAGED = "a bank lives as long as its rollout: run the same command again, finished trajectories are kept"


class DiskStore(PackedStore):
    """Pages on disk, in a folder of this process inside `folder` (null: of the run folder, or else a temporary one), which
    goes when the store closes unless `keep` is set. What a killed process left there is removed by the next one.

    room: bytes of host memory for pages that are read ahead, counted as cpu bytes until they are taken. Bytes are those of
    the pages, as in every tier; a file adds a header and positions, some hundred bytes a page. Writing waits for the file
    system. Raises OSError when the disk is full, DamagedPage for a file that cannot be read.
    """

    tier = "disk"

    def __init__(self, codec: Codec | None = None, folder: str | None = None, keep: bool = False, room: Limit = 2**30) -> None:
        super().__init__(codec)
        self.folder, self.keep, self.room = folder, keep, room
        self._own: Path | None = None
        self._reader: ThreadPoolExecutor | None = None
        self._ready: dict[int, Future[Packed]] = {}

    def settle(self, folder: Path) -> None:
        self.folder = self.folder or str(folder)

    def reset(self, device: torch.device) -> None:
        self.close()
        self._device = device
        self._sizes: dict[int, int] = {}
        self._sums: dict[int, int] = {}  # checksums of the files
        self._nbytes = 0

    def put_packed(self, frame: int, packed: Packed) -> None:
        self.drop(frame)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # pinned pages may still be on their way down
        self._sums[frame] = write_page(self._path(frame), packed, FULL)
        self._sizes[frame] = packed.nbytes
        self._nbytes += packed.nbytes

    def held(self, frame: int) -> Packed:
        """In host memory, pinned where there is a GPU. A page that is being read ahead is waited for."""
        size = self._sizes[frame]  # KeyError for a frame that is not here
        ready = self._ready.pop(frame, None)
        packed = ready.result() if ready is not None else self._read(frame)
        assert packed.nbytes == size, f"the page of frame {frame} has {packed.nbytes} bytes on disk, {size} were written"
        return packed

    def fetch(self, frame: int) -> Packed:
        return self.held(frame).to(self._device)

    def _read(self, frame: int) -> Packed:
        packed = read_page(self._path(frame), DAMAGED, self._sums.get(frame))
        return packed.map(lambda x: x.pin_memory()) if self._device.type == "cuda" else packed

    def ahead(self, frames: Sequence[int]) -> None:
        wanted = within(self.room, frames, self._sizes, self.size)
        for frame in [f for f in self._ready if f not in wanted]:
            self._forget(frame)
        for frame in wanted:
            if frame not in self._ready:
                self._reader = self._reader or ThreadPoolExecutor(1, "bank")
                self._ready[frame] = self._reader.submit(self._read, frame)

    def _forget(self, frame: int) -> None:
        if frame in self._ready:
            self._ready.pop(frame).cancel()

    def size(self, frame: int) -> int:
        return self._sizes[frame]

    def drop(self, frame: int) -> None:
        self._forget(frame)  # a read in progress then ends for nobody: its file may be gone or another
        if frame in self._sizes:
            self._nbytes -= self._sizes.pop(frame)
            self._sums.pop(frame, None)
            self._path(frame).unlink(missing_ok=True)

    def frames(self) -> Iterable[int]:
        return self._sizes.keys()

    @property
    def nbytes(self) -> int:
        return self._nbytes

    def fork(self) -> "DiskStore":
        """Its files are hard links to ours, since files are replaced and never changed; copies where the file system has no links."""
        twin = DiskStore(self.codec, self.folder, False, self.room)
        twin._device, twin._sizes, twin._sums, twin._nbytes = self._device, dict(self._sizes), dict(self._sums), self._nbytes
        for frame in self._sizes:
            try:
                os.link(self._path(frame), twin._path(frame))
            except OSError:
                shutil.copyfile(self._path(frame), twin._path(frame))
        return twin

    def bytes_in(self, tier: str) -> int:
        return super().bytes_in(tier) + (sum(self._sizes[f] for f in self._ready) if tier == "cpu" else 0)

    def _path(self, frame: int) -> Path:
        if self._own is None:
            root = Path(self.folder or tempfile.gettempdir())
            root.mkdir(parents=True, exist_ok=True)
            _sweep(root)
            self._own = Path(tempfile.mkdtemp(prefix=f"{'kept-' * self.keep}{_prefix()}{os.getpid()}-", dir=root))
            self._ends = None if self.keep else weakref.finalize(self, _remove, self._own, os.getpid())
        return self._own / f"{frame:07d}.safetensors"

    def close(self) -> None:
        for frame in list(self._ready):
            self._forget(frame)
        if self._reader is not None:
            self._reader.shutdown(wait=True)
            self._reader = None
        if self._own is not None and self._ends is not None:
            self._ends()
        self._own = None
        if self.folder is not None:
            _sweep(Path(self.folder))  # processes that Lightning started end without clearing up


def _prefix() -> str:
    return f"bank-{socket.gethostname()}-"


def _sweep(root: Path) -> None:
    """Remove the folders of processes of this machine that are no more."""
    for folder in root.glob(f"{_prefix()}*"):
        pid = folder.name.removeprefix(_prefix()).split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child must not clear up after its parent
        shutil.rmtree(folder, ignore_errors=True)

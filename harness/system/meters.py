"""What is read off beside the chunk loop: time, peak memory, and what the process holds."""

import os
import time

import torch

CGROUP = "/sys/fs/cgroup"


class Clock:
    """Wall time of the parts of chunks; on a GPU each lap waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self._laps: dict[int, dict[str, float]] = {}
        self.start()

    def start(self) -> None:
        """What came before belongs to no part."""
        self._last = self._now()

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def lap(self, chunk: int, part: str) -> None:
        """The time since the last lap was spent on `part` of `chunk`, which need not be the one that runs."""
        now = self._now()
        laps = self._laps.setdefault(chunk, {})
        laps[part] = laps.get(part, 0.0) + now - self._last
        self._last = now

    def take(self, chunk: int) -> dict[str, float]:
        """The laps of a chunk, as `seconds_PART`."""
        return {f"seconds_{part}": seconds for part, seconds in self._laps.pop(chunk).items()}


class PeakMemory:
    """Peak device memory of a rollout: the allocator's figure on a GPU, the cache's own bytes elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda, self._peak = device, device.type == "cuda", 0

    def reset(self) -> None:
        """A rollout begins. Its forks do not reset: what they take is part of its peak."""
        self._peak = 0
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)

    def read(self, cache_bytes: int) -> int:
        self._peak = torch.cuda.max_memory_allocated(self._device) if self._cuda else max(self._peak, cache_bytes)
        return self._peak


def host_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def seconds_waited() -> float:
    """How long this thread, since it began, was ready to run while the cores did other work; 0 where the system does not say (Linux does)."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) * 1e-9
    except (OSError, IndexError, ValueError):
        return 0.0


def open_files() -> int:
    """Files, pipes and sockets that this process has open; 0 where the system does not say."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def free_bytes(device: torch.device) -> int | None:
    """Memory that a process could still take on a device; None where the system does not say. A container's limit counts."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    try:
        with open("/proc/meminfo") as file:
            found += [int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:")]
        with open(f"{CGROUP}/memory.max") as most, open(f"{CGROUP}/memory.current") as used, open(f"{CGROUP}/memory.stat") as parts:
            files = sum(int(line.split()[1]) for line in parts if line.startswith(("active_file ", "inactive_file ")))  # what was read, and can be read again
            found.append(int(most.read()) - int(used.read()) + files)
    except (OSError, ValueError):  # no such file, or `max`: no limit
        pass
    return min(found, default=None)

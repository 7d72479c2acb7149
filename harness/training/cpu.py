"""What a training costs: the CPU time that led to its weights."""

from time import process_time
from typing import Any

import lightning as L


class CpuHours(L.Callback):
    """Logs val/cpu_hours after every validation: CPU time of the trainer's threads since the first step, of all starts together. What a kill threw
    away is not in it, nor are the processes that render clips (about a twentieth). Stands before other callbacks, so that what they cost counts in
    the next validation's figure alone."""

    def __init__(self) -> None:
        self.before, self.since = 0.0, process_time()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before, self.since = float(state_dict["seconds"]), process_time()

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        module.log("val/cpu_hours", self._seconds() / 3600)

    def _seconds(self) -> float:
        return self.before + process_time() - self.since

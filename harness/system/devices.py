"""Where a model runs."""

import torch


def chosen_device(name: str) -> torch.device:
    """What `backbone.device` says; auto: the GPU where there is one. Raises ValueError for a GPU that there is not."""
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        seen = f"sees {count} GPUs here; use cuda:0 to cuda:{count - 1}" if count else "sees no GPU here; use cpu, or install a CUDA build of PyTorch"
        raise ValueError(f"backbone.device={name}, but PyTorch {seen}")
    return device

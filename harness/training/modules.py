"""The Lightning module of the denoiser, which learns in the codec's latents, and what it shares with the codec's."""

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from backbones.codecs import ConvCodec
from backbones.rooms_network import RoomsNetwork, ray_features, ray_positions
from harness.training.clips import CHUNK, Clip
from harness.training.teacher import TeacherForcing
from harness.worlds.poses import rays


def decibel(error: Tensor) -> Tensor:
    """PSNR of a mean squared error of images in [0, 1]."""
    return -10 * torch.log10(error.clamp(min=1e-10))


def pixels(clip: Clip) -> Float[Tensor, "n 3 y x"]:
    """All images of a batch of clips, in [0, 1]."""
    return clip.frames.flatten(0, 1).float() / 255


def by_scenery(clip: Clip) -> list[tuple[str, Clip]]:
    """The clips of a batch in rooms and those in houses, where there are any."""
    parts = (("rooms", ~clip.house), ("houses", clip.house))
    return [(name, Clip(*(x[chosen] for x in clip))) for name, chosen in parts if chosen.any()]


def schedule(step: int, steps: int, warmup: int, decay: float) -> float:
    """Learning-rate factor: linear warm-up, constant, linear decay to zero over the last `decay` of the run."""
    return min(1.0, (step + 1) / max(1, warmup), (steps - step) / max(1.0, decay * steps))


NOISE, DRAWS = 10**6, 2 * 10**6  # of the numbers drawn at a step: noise, and what an arm chooses; a training has ten million of them


class DenoiserTraining(L.LightningModule):
    """x0-prediction at the noise levels that sampling uses, with Muon for the block matrices and AdamW for the rest. seed: of noise, with the step."""

    def __init__(
        self,
        network: RoomsNetwork,
        codec: ConvCodec,
        levels: tuple[float, ...],
        level_weights: tuple[float, ...],
        context_noise: float,
        steps: int,
        warmup: int,
        decay: float,
        lr_muon: float,
        lr_adam: float,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network, self.codec = network, codec.eval().requires_grad_(False)
        self.levels, self.level_weights, self.context_noise = levels, level_weights, context_noise
        self.steps, self.warmup, self.decay = steps, warmup, decay
        self.lr_muon, self.lr_adam, self.seed = lr_muon, lr_adam, seed
        self.peaks: tuple[list[float], ...] = ()  # highest learning rates by optimizer and group
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def inputs(self, clip: Clip) -> tuple[Float[Tensor, "b f s c"], Float[Tensor, "b f s r"], Float[Tensor, "b f s 3"]]:
        """Latents, ray features and RoPE positions of a batch of clips."""
        with torch.no_grad():
            latents = self.codec.encode(pixels(clip)).float()
        grid = (latents.shape[-2], latents.shape[-1])
        tokens = latents.flatten(2).transpose(1, 2).unflatten(0, clip.times.shape)
        with torch.autocast(latents.device.type, enabled=False):  # geometry is not for bfloat16
            origin, direction = rays(clip.c2w.flatten(0, 1), clip.intrinsics.flatten(0, 1), grid, grid[0] / clip.frames.shape[-2])
            features = ray_features(origin, direction).unflatten(0, clip.times.shape)
            return tokens, features, ray_positions(clip.times.flatten(), direction).unflatten(0, clip.times.shape)

    def loss(self, clip: Clip, g: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of x0 over all noisy chunks, and at the highest level alone (what memory has to explain) by scenery."""
        latents, features, positions = self.inputs(clip)
        b, f = clip.times.shape
        noise = torch.randn(latents.shape, generator=g).to(latents)
        past, target = latents[:, :-CHUNK], latents[:, CHUNK:]  # the first chunk is always given, the last is never context
        past = past + self.context_noise * torch.rand(b, 1, 1, 1, generator=g).to(latents) * noise[:, :-CHUNK]
        chosen = torch.multinomial(torch.tensor(self.level_weights), b * (f // CHUNK - 1), replacement=True, generator=g)
        level = torch.tensor(self.levels)[chosen].view(b, -1).repeat_interleave(CHUNK, 1).to(latents)
        noisy = torch.lerp(target, torch.randn(target.shape, generator=g).to(latents), level[..., None, None])
        x0 = self.predict(clip, past, noisy, level, features, positions)
        error = (x0 - target).square().mean((2, 3))
        top = level == max(self.levels)
        parts = {name: error[chosen & top] for name, chosen in (("rooms", ~clip.house[:, None]), ("houses", clip.house[:, None]))}
        return error.mean(), {f"loss_pure_noise_{name}": part.mean().detach() for name, part in parts.items() if len(part)}

    def predict(self, clip: Clip, past: Tensor, noisy: Tensor, level: Tensor, features: Tensor, positions: Tensor) -> Float[Tensor, "b f s c"]:
        """x0 of all chunks but the first, every one given the clean chunks before it. level: b f, features and positions: of all chunks."""
        seam = TeacherForcing(positions, CHUNK * past.shape[2])
        rays_ = torch.cat([features[:, :-CHUNK], features[:, CHUNK:]], 1)
        x0 = self.network(torch.cat([past, noisy], 1), torch.cat([torch.zeros_like(level), level], 1), rays_, seam)
        return x0[:, past.shape[1] :].float()

    def training_step(self, clip: Clip, index: int) -> None:
        step = int(self.step)
        loss, top = self.loss(clip, self.drawn(NOISE))
        factor = schedule(step, self.steps, self.warmup, self.decay)
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]  # Lightning gives one alone
        for optimizer, peaks in zip(optimizers, self.peaks, strict=True):
            optimizer.zero_grad()
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        with torch.autocast(loss.device.type, enabled=False):  # gradients of what was computed in float32 stay in float32
            self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(self.learned().values(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        self.step += 1
        self.log_dict({"train/loss": loss, **{f"train/{k}": v for k, v in top.items()}}, prog_bar=True)

    def drawn(self, what: int) -> torch.Generator:
        """Of the step, NOISE or DRAWS: trainings of one seed draw the same, those of two seeds nothing alike."""
        return torch.Generator().manual_seed(10**7 * self.seed + what + int(self.step))

    def learned(self) -> dict[str, nn.Parameter]:
        """What the optimizers change."""
        return dict(self.network.named_parameters())

    def validation_step(self, clip: Clip, index: int) -> None:
        loss, top = self.loss(clip, torch.Generator().manual_seed(index))
        self.log_dict({"val/loss": loss, **{f"val/{k}": v for k, v in top.items()}}, batch_size=len(clip.times), prog_bar=True)

    def configure_optimizers(self):
        linear = (".qkv.weight", ".out.weight", ".up.weight", ".down.weight")
        learned = self.learned()
        matrices = [p for name, p in learned.items() if name.endswith(linear)]
        rest: dict[float, list[nn.Parameter]] = {}
        for name, p in learned.items():
            if not name.endswith(linear):
                rest.setdefault(self.rate(name), []).append(p)
        self.peaks = ([self.lr_muon], list(rest))
        muon = torch.optim.Muon(matrices, lr=self.lr_muon, momentum=0.95, weight_decay=0.01)
        return [muon, torch.optim.AdamW([{"params": ps, "lr": lr} for lr, ps in rest.items()], betas=(0.9, 0.98), weight_decay=0.0)]

    def rate(self, name: str) -> float:
        """The highest learning rate of a parameter that Muon does not train."""
        return self.lr_adam

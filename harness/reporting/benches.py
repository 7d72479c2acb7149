"""The tables of docs that many runs stand in: which run the others are compared with, what points differ in, what is kept of them."""

from dataclasses import dataclass

KEPT = ("quality/", "cost/", "recall/")
BENCH_KEPT = (  # benches have many runs
    *("quality/psnr_revisit", "quality/psnr_reference", "quality/psnr_floor", "quality/psnr_ceiling", "quality/lpips_revisit", "quality/lpips_floor"),
    *("quality/contrast", "recall/psnr", "recall/lpips", "recall/probes"),
    *("cost/attended_tokens", "cost/window", "cost/bank", "cost/stored", "cost/fps_mean", "cost/unreach"),
)
TRAINED = ("control", "retrieved", "compressed", "recurrent", "geometry")  # arms, in the order of the docs
MAIN = "houses_guided"  # the table of all policies
SHORT = "short"  # the README's
VIEWS = {  # blocks that show these rows of MAIN
    SHORT: ("full", "reencode", "int4_chunks", "worldkv", "sink_recent", "sliding"),
    "selectors": (
        *("full", "reencode", "places", "retrieval_only", "int4_chunks", "worldkv", "oracle_quality", "oracle", "coverage", "fov", "query", "attention"),
        *("latent", "random", "recency", "sink_recent", "sliding"),
    ),
}
BUDGETS = {"budgets": MAIN, "byte_limits": "houses_bytes"}  # blocks that show a bench at all values of its key
PICTURES = {"long": "cost.png", "novelty": "novelty.png"}  # experiment: what its cost.png is called in docs/
CURVES = {  # pictures of recall against the gap: the experiment, its picture in docs/, and whose curves
    MAIN: ("recall.png", ("full", "reencode", "worldkv", "oracle", "random", "sliding")),
    "trained": ("recall_trained.png", ("retrieval_rebased", "worldkv", *(f"trained_{arm}" for arm in TRAINED))),
}


@dataclass(frozen=True)
class Bench:
    """A table of policies against one of them. key: what points differ in besides the policy; the table shows its first value, and a second one (of
    BUDGETS) the others beside it. more: columns that its rows have besides."""

    base: str
    key: str = ""
    first: str = ""
    others: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    @property
    def values(self) -> tuple[str, ...]:
        return (self.first, *self.others)

    def value(self, label: str) -> str:
        """A run's value of the key; the first, where its label names none."""
        mine = [part for part in label.split(" ") if part.startswith(f"{self.key}=")] if self.key else []
        return mine[-1].removeprefix(f"{self.key}=") if mine else self.first

    def leads(self, label: str) -> bool:
        return self.value(label) == self.first

    def name(self, label: str) -> str:
        return " ".join(part for part in label.split(" ") if part != f"{self.key}={self.first}").replace("capped inner=", "")

    def at(self, label: str, value: str) -> str:
        """What a row of the first value is called at another one."""
        if value == self.first:
            return label
        here, there = f"{self.key}={self.first}", f"{self.key}={value}"
        parts = label.split(" ")
        return " ".join([there if part == here else part for part in parts] if here in parts else [*parts, there])

    def base_of(self, label: str) -> str:
        """The run that a run is compared with: that of its own value."""
        value = self.value(label)
        return self.at(self.base, value) if value in self.others else self.base


BENCHES = {
    "houses_guided": Bench("worldkv", "budget", "w18", ("w12", "w24")),
    "houses_bytes": Bench("capped inner=worldkv frames=30", "frames", "30", ("45", "60")),
    "codecs": Bench("worldkv codec=none"),
    **dict.fromkeys(("houses_changing", "houses_twins", "houses_200", "houses_validation"), Bench("worldkv")),
    "trained": Bench("worldkv", "arm", "none"),
    "trained_bytes": Bench("capped inner=worldkv frames=45", "frames", "45"),
    "trained_free": Bench("worldkv", more=("novel/psnr", "novel/lpips", "novel/frames")),
    "trained_rooms": Bench("worldkv"),
}


def source(name: str) -> str:
    """The file in docs/results that a block is made from."""
    return MAIN if name in VIEWS else BUDGETS.get(name, name)

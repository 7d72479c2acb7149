"""What memories gain over the same window without one, at equal tokens and at equal bytes: training against choosing well."""

from harness.results.statistics import LEVEL, adjusted, paired

NAME = "trained_gains"  # a block
TOKENS, BYTES = "trained", "trained_bytes"  # docs/results/NAME.json
FRAMES = 45  # whole frames that all runs of BYTES may store
KEYS = {"quality/psnr_revisit": "revisits", "recall/psnr": "recall"}
UNTRAINED, CONTROL = "sink_recent", "trained_control"  # windows without memory: of the base, and of one that was trained on as long
MEMORIES = {  # policy -> what it is called at equal bytes, with chunks in 4 bits where it keeps any
    "reencode": f"capped inner=reencode frames={FRAMES}",
    "retrieval_rebased": f"capped inner=retrieval_rebased frames={FRAMES} codec=int4",
    "worldkv": f"capped inner=worldkv frames={FRAMES} codec=int4",
    "trained_retrieved": f"capped inner=trained_retrieved frames={FRAMES} arm=retrieved codec=int4",
    "trained_compressed": f"capped inner=trained_compressed frames={FRAMES} arm=compressed codec=int4",
    "trained_geometry": "",  # below the limit as they are
    "trained_recurrent": "",
}
Rows = dict[str, dict[str, float]]  # trajectory -> column -> value


def gains_table(tokens: dict, limited: dict) -> str:
    """tokens, limited: what docs/results holds of TOKENS and BYTES, with the values of every trajectory. A trained arm is compared with the control arm, a
    policy without training with the base under the same window, so that what more training is worth by itself is in neither.

    Raises ValueError where a run is missing.
    """
    at = {"tokens": tokens["values"], "bytes": tokens["values"] | limited["values"]}
    wanted = {label for policy, label in MEMORIES.items() for label in (policy, label or policy)} | {UNTRAINED, CONTROL}
    if missing := wanted - at["bytes"].keys():
        raise ValueError(f"docs/results/{TOKENS}.json and {BYTES}.json have no values of {', '.join(sorted(missing))}, which the table `{NAME}` compares")
    found = {
        (policy, how, key): paired(rows[label if how == "bytes" and label else policy], rows[CONTROL if policy.startswith("trained_") else UNTRAINED], key)
        for policy, label in MEMORIES.items()
        for how, rows in at.items()
        for key in KEYS
    }
    gains = {cell: entry for cell, entry in found.items() if entry}
    q = dict(zip(gains, adjusted([entry["p"] for entry in gains.values()]), strict=True))

    def shown(cell: tuple[str, str, str]) -> str:
        entry, p = gains[cell], q[cell]
        ends = f" [{', '.join(f'{x:+.2f}' for x in entry['ci95'])}]" if entry["ci95"] else ""
        return f"{entry['mean']:+.2f}{'*' if p is not None and p < LEVEL else ''}{ends}"

    head = ["memory", "trained for it", *(f"{said}, equal {how}" for how in at for said in KEYS.values())]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for policy in sorted(MEMORIES, key=lambda p: -gains[p, "tokens", next(iter(KEYS))]["mean"]):
        trained = "yes" if policy.startswith("trained_") else "no"
        lines.append(f"| `{policy}` | {trained} | " + " | ".join(shown((policy, how, key)) for how in at for key in KEYS) + " |")
    about = f"dB over the same window without memory (`{CONTROL}`, or `{UNTRAINED}` of the base), paired; * adjusted p < {LEVEL} among {len(gains)} comparisons"
    where = f"{tokens['trajectories']} held-out trajectories of `{tokens['world']}`, `{tokens['protocol']}`"
    windows = "Equal tokens: windows of 18 frames (`trained_compressed`: 34 on the average)"
    limit = f"Equal bytes: at most {FRAMES} whole float32 frames for window, bank, state and scratch, banked chunks in 4 bits"
    return "\n".join([*lines, "", f"{about}; {where}. {windows}. {limit}."])

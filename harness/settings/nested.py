"""Nested settings on one level."""


def flatten(tree: object, prefix: str = "") -> dict[str, object]:
    """A nested config as one level of dotted keys, as W&B sweeps name them."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat

"""From settings to objects: the only place that does what a `_target_` says, and not before it was checked."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from harness.settings.check import check


def plain(node: DictConfig | Mapping) -> dict[str, Any]:
    """Settings as plain values. What is not set yet stays `???`."""
    found = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


def build(node: DictConfig | Mapping, where: str, kind: Any = Any, plugins: Sequence[str] = ()) -> Any:
    """The object that settings describe. where, kind, plugins: see `check`. Raises what its constructor raises, ValueError for settings that cannot work."""
    settings = plain(node)
    if "_target_" not in settings:
        raise ValueError(f"{where}: its settings name no class (_target_)")
    check(settings, where, kind, plugins)
    try:
        return instantiate(settings, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while isinstance(cause, InstantiationException):
            cause = cause.__cause__
        if isinstance(cause, Exception):
            raise cause from None
        raise

"""Evaluation of KV-cache policies of autoregressive video world models. From Python: `from harness import evaluate, compare, build, Session`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.evaluation.python import Comparison, Evaluation, build, compare, evaluate
    from harness.session import Session

__all__ = ["Comparison", "Evaluation", "Session", "build", "compare", "evaluate"]


def __getattr__(name: str):
    """Imported when they are first asked for: torch and the rest take seconds, and `--help` needs none of them."""
    if name == "Session":
        from harness.session import Session

        return Session
    if name in __all__:
        from harness.evaluation import python

        return getattr(python, name)
    raise AttributeError(f"module 'harness' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

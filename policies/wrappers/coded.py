"""A form for what any policy banks."""

from dataclasses import dataclass

from harness.cache.codecs import Codec
from harness.policy import CachePolicy, PolicyWrapper


@dataclass
class CodedPolicy(PolicyWrapper):
    """Any policy whose banked pages are kept in a form of their own, whatever the store's codec (Quant-VideoGen, arXiv 2602.02958,
    quantises a video model's whole cache; here the window stays exact, as only banked pages are coded)."""

    inner: CachePolicy
    form: Codec

    @property
    def codec(self) -> Codec:
        return self.form

"""A form for what any policy banks."""

from dataclasses import dataclass

from harness.cache.codecs import Codec
from harness.policy import CachePolicy, PolicyWrapper


@dataclass
class CodedPolicy(PolicyWrapper):
    """Any policy whose banked pages are kept in a form of their own, whatever the store's codec (Quant-VideoGen, arXiv 2602.02958,
    quantises a video model's whole cache; here the window stays exact, as only banked pages are coded).

    Simplified: Quant-VideoGen codes what is left after the nearest of some cluster centres; of the forms here `kmeans4` does so, `int4` and `int8`
    round within groups and know no clusters.
    """

    inner: CachePolicy
    form: Codec

    @property
    def codec(self) -> Codec:
        return self.form

"""What the tests of bounded memories share: a diary of a policy, and a path whose views are alike by all degrees."""

from harness.policy import PolicyWrapper
from harness.trajectory import Trajectory
from tests.conftest import make_world


class Diary(PolicyWrapper):
    """Writes down plans, what was committed, what the bank holds, and the contexts that attention was given."""

    def __init__(self, inner):
        self.inner = inner

    def reset(self, geometry):
        super().reset(geometry)
        self.plans, self.raw, self.kv, self.held, self.seen = [], {}, {}, [], {}

    def plan(self, chunk, bank):
        self.held.append(list(bank.frames))
        self.plans.append(super().plan(chunk, bank))
        return self.plans[-1]

    def attend(self, q, k, v, site):
        if site.clean:
            self.seen[site.chunk, site.layer] = (k[0].clone(), v[0].clone())  # the last word is the chunk's own
        return super().attend(q, k, v, site)

    def commit(self, chunk, kv, bank):
        for i, f in enumerate(chunk.frames):
            part = slice(6 * i, 6 * i + 6)
            self.raw[f] = (kv.k_raw[:, 0, part].clone(), kv.v[:, 0, part].clone(), kv.positions[part].clone())
            self.kv[f] = (kv.k[:, 0, part].clone(), kv.v[:, 0, part].clone())
        super().commit(chunk, kv, bank)
        self.bank = bank


def wandering() -> Trajectory:
    """Turns and walks of several lengths, so that likenesses are of every size."""
    return make_world(["WR60WL150R30SDR105WL60A"], degrees=15.0).trajectory(0)

"""Ctrl-C put to every command that runs for long, as `tests/test_entry_points.py` puts SIGTERM to them. `make test-kill`."""

import os
import signal

import pytest

from tests import test_entry_points
from tests.test_entry_points import STOPPED

pytestmark = pytest.mark.skipif(os.environ.get("WORLDKV_KILL") != "1", reason="takes minutes: make test-kill")


@pytest.mark.parametrize("case", STOPPED, ids=[f"{s} {' '.join(a)[:20]}" for s, a, _, _ in STOPPED])
def test_ctrl_c_ends_it_within_a_chunk(case, tmp_path):
    test_entry_points.test_a_signal_ends_it_within_a_chunk(signal.SIGINT, *case, tmp_path)

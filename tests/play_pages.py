"""What the tests of the page that one walks in share: settings of the smallest model, two choices, and a page without a browser."""

import json
import struct
import time

from harness.playing.setup import Choice

TINY = ("backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny")
WORLDKV, SLIDING = Choice("worldkv", "w18"), Choice("sliding", "w18")
SHORT = 60  # seconds that a test waits for what takes a fraction of one


class Client:
    """A page without a browser."""

    def __init__(self, stack, address, **headers):
        from websockets.sync.client import connect  # needs the package

        self.socket = stack.enter_context(connect(address.replace("http", "ws") + "live", max_size=None, **headers))

    def send(self, **message):
        self.socket.send(json.dumps(message))

    def until(self, kind, check=lambda message: True):
        end = time.monotonic() + SHORT
        while time.monotonic() < end:
            data = self.socket.recv(timeout=SHORT)
            size = struct.unpack("<I", data[:4])[0]
            message = json.loads(data[4 : 4 + size])
            assert len(data) == 4 + size + sum(message["sizes"])
            if message["type"] == kind and check(message):
                return message
        raise TimeoutError(kind)

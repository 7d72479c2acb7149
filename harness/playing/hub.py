"""The open pages: one walks, the others watch. A page that reads too slowly misses pictures, and never holds the model up."""

import asyncio
import json
import struct
from dataclasses import dataclass, field

from harness.playing.messages import Command, Describe, Keys, Leave, Take
from harness.playing.worker import Worker

WAITING = 64  # messages that a page may be behind; then they are dropped, and it is told all of the walk anew


@dataclass(eq=False)
class Page:
    """An open page. outbox: what it has not read yet."""

    hub: "Hub"
    outbox: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(WAITING))

    @property
    def walks(self) -> bool:
        return bool(self.hub.pages) and self.hub.pages[0] is self

    def tell(self, about: dict, *pictures: bytes) -> None:
        self.put(packed(about, pictures))

    def put(self, data: bytes) -> None:
        """In the event loop's thread."""
        try:
            self.outbox.put_nowait(data)
        except asyncio.QueueFull:
            while not self.outbox.empty():
                self.outbox.get_nowait()
            self.outbox.put_nowait(packed(self.hub.role(self)))  # it may have been among what is dropped
            self.hub.describe(self)


class Hub:
    """linger: seconds after the last page has gone until the walk is given up, so that a reload finds it."""

    def __init__(self, linger: float) -> None:
        self.pages: list[Page] = []  # the first one walks
        self.linger = linger
        self.loop: asyncio.AbstractEventLoop | None = None
        self.worker: Worker | None = None
        self._giving_up: asyncio.TimerHandle | None = None

    def tell(self, about: dict, *pictures: bytes) -> None:
        """To all pages, from the model's thread. Returns at once."""
        data = packed(about, pictures)
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._spread, data)

    def join(self) -> Page:
        page = Page(self)
        self.pages.append(page)
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
        page.tell(self.role(page))
        self.describe(page)
        return page

    def leave(self, page: Page) -> None:
        """A page has gone. What it held down is let go; with the last page the walk's memory goes too."""
        walked = page.walks
        self.pages.remove(page)
        if walked:
            self._do(Keys(frozenset()))
            self._roles()
        if not self.pages and self.loop is not None:
            self._giving_up = self.loop.call_later(self.linger, self._do, Leave())

    def obey(self, page: Page, command: Command) -> None:
        """A page asks for something. Raises ValueError for one that only watches."""
        if isinstance(command, Take):
            self.pages.sort(key=lambda p: p is not page)
            self._do(Keys(frozenset()))
            self._roles()
        elif not page.walks:
            raise ValueError("another page walks already, and this one watches; press “Walk here” to take over")
        else:
            self._do(command)

    def describe(self, page: Page) -> None:
        """Let the model's thread tell a page all of the walk."""

        def tell(about: dict) -> None:
            data = packed(about)
            if self.loop is not None and not self.loop.is_closed():
                self.loop.call_soon_threadsafe(page.put, data)

        self._do(Describe(tell))

    def _do(self, command: Command) -> None:
        if self.worker is not None:
            self.worker.do(command)

    def _spread(self, data: bytes) -> None:
        for page in list(self.pages):
            page.put(data)

    def _roles(self) -> None:
        for page in self.pages:
            page.tell(self.role(page))

    def role(self, page: Page) -> dict:
        return {"type": "role", "walks": page.walks, "pages": len(self.pages)}


def packed(about: dict, pictures: tuple[bytes, ...] = ()) -> bytes:
    """A message as it travels: the length of the JSON (4 bytes, little-endian), the JSON, the pictures; `sizes` says where these end."""
    head = json.dumps(about | {"sizes": [len(p) for p in pictures]}, separators=(",", ":")).encode()
    return b"".join([struct.pack("<I", len(head)), head, *pictures])

"""Whether W&B is to be told at once: a login, and a server that answers."""

import http.client
import logging
import netrc
import os
import urllib.error
import urllib.request
from typing import Literal
from urllib.parse import urlparse

import wandb

log = logging.getLogger(__name__)


Mode = Literal["online", "offline", "disabled"]


ANSWER = 5  # seconds for the server to say anything at all


def logged_in() -> bool:
    """Whether W&B has a key for its server, without asking anybody: the environment, or the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlparse(server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def server() -> str:
    """The server that the environment, `wandb login --host` or W&B itself name."""
    return os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url


def answers(url: str) -> str:
    """Why the server cannot be used now; empty if it can."""
    try:
        urllib.request.urlopen(url, timeout=ANSWER).close()
    except urllib.error.HTTPError as error:
        return "" if error.code < 500 else f"it answers {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:  # the last: what answers speaks no HTTP, or its address is none
        return str(getattr(error, "reason", "") or error or type(error).__name__)
    return ""


def mode_of(wanted: str) -> Mode:
    if wanted == "auto":
        wanted = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    if wanted != "online":
        return "disabled" if wanted == "disabled" else "offline"
    if not logged_in():  # W&B would ask for a key, on a terminal
        log.warning("W&B: not logged in (`wandb login`); this run is kept offline")
        return "offline"
    if problem := answers(server()):
        log.warning("W&B: no use of %s (%s); this run is kept offline", server(), problem)
        return "offline"
    return "online"

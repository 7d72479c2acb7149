"""The page's server: its files, the pictures of the walk so far, and a websocket a page."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import torch
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from harness.playing.camera import KEYS
from harness.playing.hub import Hub, Page
from harness.playing.messages import read
from harness.playing.pane import picture
from harness.playing.setup import Setup
from harness.playing.walk import MOST

STATIC = Path(__file__).parent / "static"
REPORT = Path(__file__).parents[1] / "reporting" / "static"  # colours and states of the strip are the report's own
FILES = {name: STATIC / name for name in ("play.css", "play.js", "map.js")} | {name: REPORT / name for name in ("report.css", "trace.js")}
GREY = picture(torch.full((3, 1, 1), 0.5))
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address may hold the token
}


def make_app(hub: Hub, setup: Setup, token: str = "") -> Starlette:
    """token: what every address must give, once or as a cookie; empty for a page that only this machine can reach."""

    def allowed(connection: HTTPConnection) -> bool:
        """From this machine by its own name (no other site's script can claim that), or with the token."""
        host = connection.headers.get("host", "")
        origin = connection.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return False  # another site's page
        if not token:
            return host.rpartition(":")[0] in LOOPBACK or host in LOOPBACK
        given = connection.query_params.get("token") or connection.cookies.get("token") or ""
        return secrets.compare_digest(given.encode(), token.encode())

    def guarded(answer: Callable[[Request], Response]) -> Callable:
        async def endpoint(request: Request) -> Response:
            if not allowed(request):
                why = "open the address with its token, as the terminal printed it" if token else "open it as http://127.0.0.1"
                return PlainTextResponse(f"not allowed: {why}", 403, HEADERS)
            return answer(request)

        return endpoint

    def page(request: Request) -> Response:
        response = FileResponse(STATIC / "play.html", headers=HEADERS)
        if token:
            response.set_cookie("token", token, httponly=True, samesite="strict")
        return response

    def file(request: Request) -> Response:
        path = FILES.get(request.path_params["name"])
        return FileResponse(path, headers=HEADERS) if path else PlainTextResponse("there is no such file", 404, HEADERS)

    def options(request: Request) -> Response:
        return JSONResponse({"policies": setup.options("policy"), "budgets": setup.options("budget"), "keys": KEYS, "most": MOST}, headers=HEADERS)

    def frame(request: Request) -> Response:
        """A video frame of a pane, or of the true views; grey where there is none (any more)."""
        pane, index = request.path_params["pane"], request.path_params["index"]
        walk = hub.worker.walk if hub.worker else None
        panes = walk.panes if walk else []
        pictures = (walk.true_pictures if walk else []) if pane == "truth" else panes[int(pane)].pictures if pane.isdecimal() and int(pane) < len(panes) else []
        data = pictures[index] if index < len(pictures) else GREY
        return Response(
            data, media_type="image/png" if data.startswith(b"\x89PNG") else "image/jpeg", headers=HEADERS | {"Cache-Control": "private, max-age=3600"}
        )

    async def live(websocket: WebSocket) -> None:
        if not allowed(websocket):
            await websocket.close(1008)
            return
        await websocket.accept()
        one = hub.join()
        sender = asyncio.create_task(_send(websocket, one))
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                try:
                    hub.obey(one, read(message.get("text") or ""))
                except ValueError as error:
                    one.tell({"type": "refused", "text": str(error)})
        except WebSocketDisconnect:
            pass
        finally:
            hub.leave(one)
            sender.cancel()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette):
        hub.loop = asyncio.get_running_loop()
        yield

    routes = [
        Route("/", guarded(page)),
        Route("/options", guarded(options)),
        Route("/frame/{version:int}/{pane}/{index:int}", guarded(frame)),
        Route("/{name}", guarded(file)),
        WebSocketRoute("/live", live),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _send(websocket: WebSocket, page: Page) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):  # it has gone; who reads from it notices
        while True:
            await websocket.send_bytes(await page.outbox.get())


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError with the remedy where the port or the address is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen()
    except OSError as error:
        made.close()
        remedy = (
            f"port={port + 1}, or port=0 for any that is free"
            if error.errno == 98
            else "host=127.0.0.1 (this machine alone) or another address of this machine"
        )
        raise OSError(error.errno, f"cannot listen at {host}:{port} ({error.strerror}); use {remedy}") from None
    return made

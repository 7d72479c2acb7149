"""A loopback stand-in for the W&B server: the GraphQL operations that `wandb sweep` and `wandb agent` need, and no others.

Runs themselves log offline. Points come from W&B's own search code; a run whose agent has ended it is finished.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

import sweeps


class StandIn:
    """`url` is what WANDB_BASE_URL takes. operations: names of the requests, in order. given: the points that agents took.

    mood: well; error (500 to everything), hang (says nothing), late error and late hang (from the first request for data on).
    """

    def __init__(self, mood: str = "well") -> None:
        self.mood, self.over = mood, threading.Event()
        self.views: list[dict] = []
        self.config: dict = {}
        self.text = ""
        self.operations: list[str] = []
        self.given: list[dict] = []
        self.agents: list[str] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"stand_in": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: dict) -> dict:
        name = request.get("operationName") or re.search(r"(?:query|mutation)\s+(\w+)", request["query"])[1]
        with self._lock:
            self.operations.append(name)
            return {"data": getattr(self, f"_{name}")(request.get("variables") or {})}

    def _Viewer(self, _) -> dict:
        return {"viewer": {"id": "u", "entity": "e", "username": "u", "flags": "{}", "teams": {"edges": []}}}

    def _GetDefaultEntity(self, _) -> dict:
        return {"viewer": {"id": "u", "entity": "e"}}

    def _ProjectInternalId(self, _) -> dict:
        return {"project": {"id": "p", "internalId": "p-internal"}}

    def _GetProjects(self, _) -> dict:
        node = {"__typename": "Project", "id": "p", "name": "worldkv-harness", "entityName": "e", "createdAt": "2026-01-01T00:00:00Z"}
        page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"pageInfo": page, "edges": [{"node": node | {"isBenchmark": False, "user": None}}]}}

    def _UpsertView2(self, variables: dict) -> dict:
        """Both a workspace and a report are views."""
        self.views.append(variables)
        project = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = variables | {"id": f"view{len(self.views)}", "updatedAt": None, "project": project}
        return {"upsertView": {"view": view, "inserted": True}}

    _upsertView = _UpsertView2

    def _UpsertSweep(self, variables: dict) -> dict:
        self.text = variables["config"]
        self.config = yaml.safe_load(self.text)
        project = {"id": "p", "name": variables.get("projectName") or "p", "entity": {"id": "e", "name": "e"}}
        return {"upsertSweep": {"sweep": {"name": "sweep1", "project": project}, "configValidationWarnings": []}}

    def _SweepWithRuns(self, _) -> dict:
        sweep = {"id": "sweep1", "name": "sweep1", "config": self.text, "state": "RUNNING", "method": self.config["method"], "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def _CreateAgent(self, variables: dict) -> dict:
        self.agents.append(f"agent{len(self.agents)}")
        return {"createAgent": {"agent": {"id": self.agents[-1]}}}

    def _Heartbeat(self, variables: dict) -> dict:
        """One point for an agent that runs none; the end when there is none left."""
        commands = []
        if not json.loads(variables["runState"]):
            known = [sweeps.SweepRun(config=g["args"], state=sweeps.RunState.running) for g in self.given]
            run = sweeps.next_run(self.config, known)
            if run is None:
                commands = [{"type": "exit"}]
            else:
                commands = [{"type": "run", "run_id": f"run{len(self.given)}", "program": self.config["program"], "args": run.config}]
                self.given.append(commands[0] | {"agent": variables.get("id")})
        return {"agentHeartbeat": {"agent": {"id": variables.get("id")}, "commands": json.dumps(commands)}}


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn

    def do_GET(self) -> None:
        if not self._misbehaves(self.stand_in.mood):
            self._answer({})

    def do_POST(self) -> None:
        if self._misbehaves(self.stand_in.mood.removeprefix("late ")):
            return
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        answer = self.stand_in.answer(json.loads(body)) if self.path == "/graphql" else {}  # others are telemetry
        self._answer(answer)

    def _misbehaves(self, mood: str) -> bool:
        if mood == "hang":
            self.stand_in.over.wait()
        if mood == "error":
            self.send_error(500)
        return mood in ("hang", "error")

    def _answer(self, answer: dict) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_) -> None:
        pass

"""A loopback stand-in for the W&B server: the GraphQL operations that runs, `wandb sweep` and `wandb agent` need, and no others.

What it knows of runs is what W&B's own client sent: history, summary, state. Points come from W&B's own search code, and so does the
word which of them are to be stopped; a run whose agent has ended it is finished.
"""

import gzip
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

import sweeps


@dataclass
class Run:
    """began: upserts by clients that opened it. history: its rows, with the time when each came. config: flat."""

    began: int = 0
    history: list[dict] = field(default_factory=list)
    came: list[float] = field(default_factory=list)
    config: dict = field(default_factory=dict)
    sweep: str = ""
    exit_code: int | None = None
    uploaded: set[str] = field(default_factory=set)


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
        self.runs: dict[str, Run] = {}
        self.stopped: list[str] = []
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

    def _UpsertBucket(self, variables: dict) -> dict:
        run = self.runs.setdefault(variables["name"], Run())
        first = variables["displayName"] is not None or variables.get("sweep")
        if first:
            run.began += 1
            run.exit_code = None
        config = json.loads(variables["config"] or "{}")
        run.config |= {k: v["value"] for k, v in config.items()}
        run.sweep = variables.get("sweep") or run.sweep
        project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
        known = {"id": variables["name"], "name": variables["name"], "displayName": variables.get("displayName") or variables["name"]}
        bucket = known | {"description": None, "config": None, "sweepName": run.sweep or None, "historyLineCount": len(run.history), "project": project}
        return {"upsertBucket": {"bucket": bucket, "inserted": bool(first)}}

    def _RunResumeStatus(self, variables: dict) -> dict:
        run, name = self.runs.get(variables["name"]), variables["name"]
        bucket = run and {
            "id": name, "name": name, "displayName": name, "summaryMetrics": "{}", "logLineCount": 0, "historyLineCount": len(run.history),
            "eventsLineCount": 0, "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]), "eventsTail": "[]",
            "config": json.dumps({k: {"value": v} for k, v in run.config.items()}), "tags": [], "notes": "", "wandbConfig": "{}",
        }  # fmt: skip
        return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}, "bucket": bucket}}

    def _CreateRunFiles(self, variables: dict) -> dict:
        run = variables["run"]
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{run}/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _ServerFeaturesQuery(self, _) -> dict:
        return {"serverInfo": {"features": []}}

    def _OrganizationCoreWeaveOrganizationID(self, _) -> dict:
        return {"entity": None}

    def _ArtifactType(self, _) -> dict:
        return {"project": {"artifact": None}}

    def _CreateArtifact(self, _) -> dict:
        """As if the server had the very files already: none is sent."""
        return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}}}

    def stream(self, run_id: str, sent: dict) -> None:
        """What a run's client sends while the run goes on, and its exit code at the end."""
        with self._lock:
            run = self.runs.setdefault(run_id, Run())
            for line in sent.get("files", {}).get("wandb-history.jsonl", {}).get("content", []):
                run.history.append(json.loads(line))
                run.came.append(time.monotonic())
            if sent.get("complete"):
                run.exit_code = sent.get("exitcode")

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
        """One point for an agent that runs none; the end when there is none left; and the runs that W&B's search code would stop."""
        running = json.loads(variables["runState"])
        commands = [{"type": "stop", "run_id": name} for name in self._to_stop() if name in running]
        if not running:
            known = [sweeps.SweepRun(config=g["args"], state=sweeps.RunState.running) for g in self.given]
            run = sweeps.next_run(self.config, known)
            if run is None:
                commands = [{"type": "exit"}]
            else:
                commands = [{"type": "run", "run_id": f"run{len(self.given)}", "program": self.config["program"], "args": run.config}]
                self.given.append(commands[0] | {"agent": variables.get("id")})
        return {"agentHeartbeat": {"agent": {"id": variables.get("id")}, "commands": json.dumps(commands)}}

    def _to_stop(self) -> list[str]:
        if "early_terminate" not in self.config:
            return []
        metric = self.config["metric"]["name"]
        known = []
        for name, run in self.runs.items():
            state = sweeps.RunState.running if run.exit_code is None else sweeps.RunState.finished
            history = [{metric: row[metric]} for row in run.history if metric in row]
            known.append(sweeps.SweepRun(name=name, state=state, config={}, sampledHistory=history))
        found = [run.name for run in sweeps.stop_runs(self.config, known)]
        self.stopped += [name for name in found if name not in self.stopped]
        return found


class _Handler(BaseHTTPRequestHandler):
    stand_in: StandIn

    def do_GET(self) -> None:
        if not self._misbehaves(self.stand_in.mood):
            self._answer({})

    def do_POST(self) -> None:
        if self._misbehaves(self.stand_in.mood.removeprefix("late ")):
            return
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.stand_in.stream(stream[1], json.loads(body))
        self._answer(self.stand_in.answer(json.loads(body)) if self.path == "/graphql" else {})  # others are telemetry

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        _, _, run, name = self.path.split("/", 3)
        self.stand_in.runs[run].uploaded.add(name)
        self._answer({})

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

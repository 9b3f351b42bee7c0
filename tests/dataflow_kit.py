"""A stand-in for the Dataflow service on loopback: takes jobs by its REST API, tells states, runs what was staged.

The client is Beam's own; only the service is ours. It keeps each job as it arrived.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_JOBS = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs(?:/([^/?]+))?(?:\?.*)?")


class DataflowService:
    """What arrived at the service, and what it says of each job."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.jobs: dict[str, dict[str, Any]] = {}  # as they arrived
        self.states: dict[str, str] = {}
        self.asked = 0

    def submit(self, job: dict[str, Any]) -> dict[str, Any]:
        """Take a job; the service's answer."""
        name = f"2026-01-01_00_00_00-{len(self.jobs) + 1}"
        self.jobs[name] = job
        self.states[name] = "JOB_STATE_RUNNING"
        return {"id": name, "name": job["name"], "clientRequestId": job["clientRequestId"]}

    def state(self, name: str) -> dict[str, Any] | None:
        """The service's answer to a question for a job."""
        self.asked += 1
        return {"id": name, "currentState": self.states[name]} if name in self.states else None


@contextlib.contextmanager
def dataflow_service() -> Iterator[DataflowService]:
    """A running service."""
    service = DataflowService()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(service.submit(body) if _JOBS.fullmatch(self.path) else None)

        def do_GET(self) -> None:
            found = _JOBS.fullmatch(self.path)
            self._answer(service.state(found[3]) if found and found[3] else None)

        def _answer(self, content: dict[str, Any] | None) -> None:
            body = json.dumps(content or {"error": {"code": 404, "message": "no such job"}}).encode()
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service.endpoint = f"http://localhost:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


def run_staged(pipeline: bytes) -> str:
    """Run a job's staged graph as the service does: its workers are processes that hold nothing of the launcher.

    pipeline: the pipeline.pb of the job. Workers take their packages from this process's PYTHONPATH. Returns the
    state in which the job ended.
    """
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.portability import python_urns
    from apache_beam.portability.api import beam_runner_api_pb2
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    graph = beam_runner_api_pb2.Pipeline.FromString(pipeline)
    for environment in graph.components.environments.values():
        environment.urn = python_urns.SUBPROCESS_SDK
        environment.payload = f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main".encode()
        del environment.dependencies[:]
    result = FnApiRunner().run_via_runner_api(graph, PipelineOptions([]))
    return str(result.wait_until_finish())

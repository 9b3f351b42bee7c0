"""A real Label Studio server on loopback, in a virtual environment of its own, and its API for tests."""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port, running

_FOLDER = Path(__file__).parent.parent / ".cache" / "label-studio" / "bin"
_TOKEN = "0123456789abcdef0123456789abcdef01234567"
_START_S = 600  # the first start makes the database: a minute, on a machine that has nothing else to do


@dataclass(frozen=True, kw_only=True)
class LabelStudio:
    """A running server. documents: the root of the local files that it serves."""

    endpoint: str
    documents: Path

    def call(self, method: str, path: str, body: object = None) -> Any:
        """The JSON answer of an API call; a refusal is a Refused."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.endpoint}{path}", data=data, method=method)
        request.add_header("Authorization", f"Token {_TOKEN}")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(f"{error.code}: {error.read().decode()}") from error
        return json.loads(text) if text else None

    def project(self, config: str, **options: object) -> int:
        """A new project's id."""
        return int(
            self.call("POST", "/api/projects", {"title": "test", "label_config": config, **options})["id"]
        )

    def load(self, project: int, tasks: object) -> Mapping[str, Any]:
        """Import tasks; what the server says of it."""
        return self.call("POST", f"/api/projects/{project}/import?commit_to_project=true", tasks)

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """All tasks, with their predictions and annotations."""
        asked = {"project": project, "fields": "all", "page_size": 1000}
        return self.call("GET", f"/api/tasks?{urllib.parse.urlencode(asked)}")["tasks"]

    def serve(self, project: int, folder: Path) -> None:
        """Let the project show the local files of a folder below the document root."""
        asked = {"project": project, "path": str(folder), "use_blob_urls": True, "title": "local files"}
        self.call("POST", "/api/storages/localfiles", asked)

    def download(self, path: str) -> bytes:
        """What a reviewer's browser gets of an image."""
        request = urllib.request.Request(f"{self.endpoint}{path}")
        request.add_header("Authorization", f"Token {_TOKEN}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def export(self, project: int) -> list[dict[str, Any]]:
        """The JSON export of all tasks, annotated or not."""
        return self.call("GET", f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")


class Refused(Exception):
    """The server refused a call."""


@contextlib.contextmanager
def running_label_studio(folder: Path) -> Iterator[LabelStudio]:
    """A server with its validation of predictions on, its data in `folder`; skips where it is not installed.

    `python -m venv .cache/label-studio && .cache/label-studio/bin/pip install label-studio==1.23.2` puts it beside
    the repository's other caches: what it depends on conflicts with the library's own environment.
    """
    program = shutil.which("label-studio", path=str(_FOLDER))
    if program is None:
        pytest.skip("label-studio is not installed")
    documents = folder / "documents"
    documents.mkdir()
    port = free_port()
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(documents),
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "fflag_feat_utc_210_prediction_validation_15082025": "true",
    }
    command = ["env", "-u", "PYTHONPATH", *(f"{name}={value}" for name, value in settings.items())]
    command += [program, "start", "--no-browser", "--internal-host", "127.0.0.1", "-p", str(port)]
    command += ["--username", "ci@example.org", "--password", "only-for-tests-1", "--user-token", _TOKEN]
    command += ["--enable-legacy-api-token"]
    with running(command, f"http://127.0.0.1:{port}/health", wait_s=_START_S):
        yield LabelStudio(endpoint=f"http://127.0.0.1:{port}", documents=documents)

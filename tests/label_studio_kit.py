"""A real Label Studio server on loopback, in a virtual environment of its own, and its API for tests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port, running

VERSION = "1.23.2"
_FOLDER = Path(__file__).parent.parent / ".cache" / "label-studio"
_TOKEN = "0123456789abcdef0123456789abcdef01234567"
_START_S = 180  # the first start makes the database


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

    def export(self, project: int) -> list[dict[str, Any]]:
        """The JSON export of all tasks, annotated or not."""
        return self.call("GET", f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")


class Refused(Exception):
    """The server refused a call."""


@contextlib.contextmanager
def running_label_studio(folder: Path) -> Iterator[LabelStudio]:
    """A server with its validation of predictions on, its data in `folder`; skips where it is not installed.

    Its first use makes the environment, where BEAMCLIP_REQUIRE names the group: pip downloads 300 MB.
    """
    program = installed("label-studio", f"label-studio=={VERSION}")
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
    command = ["env", *(f"{name}={value}" for name, value in settings.items())]
    command += [program, "start", "--no-browser", "--internal-host", "127.0.0.1", "-p", str(port)]
    command += ["--username", "ci@example.org", "--password", "only-for-tests-1", "--user-token", _TOKEN]
    command += ["--enable-legacy-api-token"]
    with running(command, f"http://127.0.0.1:{port}/health", wait_s=_START_S):
        yield LabelStudio(endpoint=f"http://127.0.0.1:{port}", documents=documents)


def installed(group: str, package: str) -> str:
    """The program `group` (or `python`, for a library) of the environment `.cache/<group>`, made if it must run."""
    folder = _FOLDER.parent / group
    program = folder / "bin" / ("python" if group == "datumaro" else group)
    done = folder / f".installed-{package}"
    if done.exists():
        return str(program)
    if group not in os.environ.get("BEAMCLIP_REQUIRE", "").split(","):
        pytest.skip(
            f"{group} is not installed: BEAMCLIP_REQUIRE={group} makes .cache/{group} (pip install {package})"
        )
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", package], check=True)
    done.touch()
    return str(program)

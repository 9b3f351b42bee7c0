"""Jobs of remote runners: their names, kept in the lease, and what their runner says of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from clip_transforms.elements import RequestError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions

_DATAFLOW = "https://dataflow.googleapis.com"
_ENDED = ("DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED")
#: Where the launcher of a Flex Template is told to leave its job; the folder is the job's id.
_FLEX_LAUNCH = re.compile(r"/template_launches/([^/]+)/job_object$")
_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What a runner says of a job. ended: None where it could not be asked, for the reason given."""

    name: str  # RUNNING, DONE, FAILED, ...
    ended: bool | None
    reason: str = ""


def job_name(result: Any, options: PipelineOptions) -> str | None:
    """The name of a job that was just submitted; None where its runner has none that others could ask by.

    `dataflow://PROJECT/REGION/ID`, or `beam://HOST:PORT/ID` of a job server.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PortableOptions

    if hasattr(result, "has_job"):  # Dataflow's
        cloud = options.view_as(GoogleCloudOptions)
        found = result.job_id() if result.has_job else flex_job_id(options)
        if found is None:
            return None
        other = (
            ""
            if cloud.dataflow_endpoint == _DATAFLOW
            else f"?endpoint={quote(cloud.dataflow_endpoint, safe='')}"
        )
        return f"dataflow://{cloud.project}/{cloud.region}/{found}{other}"
    identifier = getattr(result, "_job_id", None)
    endpoint = options.view_as(PortableOptions).job_endpoint
    if identifier is None or endpoint in (None, "", "embed"):
        return None
    return f"beam://{endpoint}/{quote(identifier)}"


def flex_job_id(options: PipelineOptions) -> str | None:
    """The id of the Dataflow job whose launcher this process is; None where it is none.

    A Flex Template's launcher writes its job to a file and ends; the service then starts it under the id that
    the launch has had all along. Raises RequestError for any other template.
    """
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    location = options.view_as(GoogleCloudOptions).template_location
    if not location:
        return None
    found = _FLEX_LAUNCH.search(location)
    if found is None:
        raise RequestError(
            f"--template_location {location}: a classic template would run again and again with the plan of this one "
            "run; use the Flex Template (pipelines/flex_template.json)"
        )
    return found[1]


def console_url(job: str) -> str | None:
    """Where a Dataflow job is looked at; None for other runners.

    >>> console_url("dataflow://my-project/europe-west1/2026-1")
    'https://console.cloud.google.com/dataflow/jobs/europe-west1/2026-1?project=my-project'
    """
    parts = urlsplit(job)
    if parts.scheme != "dataflow":
        return None
    return f"https://console.cloud.google.com/dataflow/jobs{parts.path}?project={parts.netloc}"


def job_state(job: str) -> JobState:
    """Ask the job's runner; never raises, for a runner that cannot be asked is an answer too."""
    parts = urlsplit(job)
    try:
        if parts.scheme == "dataflow":
            name = _dataflow_state(
                parts.netloc, parts.path, parse_qs(parts.query).get("endpoint", [_DATAFLOW])[0]
            )
        elif parts.scheme == "beam":
            name = _job_server_state(parts.netloc, parts.path[1:])
        else:
            return JobState(name="unknown", ended=None, reason=f"{job} is no name of a job")
    except Exception as error:  # noqa: BLE001 - whatever a client library raises: said, and the job is not known to have ended
        return JobState(name="unknown", ended=None, reason=_reason(error))
    return JobState(name=name, ended=name in _ENDED)


def _dataflow_state(project: str, path: str, endpoint: str) -> str:
    """The state by Dataflow's REST API, which needs nothing that google-auth does not bring."""
    region, identifier = path[1:].split("/")
    url = f"{endpoint.rstrip('/')}/v1b3/projects/{project}/locations/{region}/jobs/{identifier}"
    answer = _session(endpoint).get(url, params={"view": "JOB_VIEW_SUMMARY"}, timeout=_TIMEOUT_S)
    if answer.status_code != 200:
        raise OSError(f"{endpoint} answers {answer.status_code} for the job {identifier}")
    return str(answer.json().get("currentState", "JOB_STATE_UNKNOWN")).removeprefix("JOB_STATE_")


def _session(endpoint: str) -> Any:
    """A requests session with this machine's own credentials; without any for a service on this machine."""
    import google.auth
    import requests
    from google.auth.transport import requests as transport

    if urlsplit(endpoint).hostname in ("localhost", "127.0.0.1"):
        return requests.Session()
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    authorized: Any = transport.AuthorizedSession
    return authorized(google.auth.default(scopes=scopes)[0])


def _job_server_state(endpoint: str, identifier: str) -> str:
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

    with grpc.insecure_channel(endpoint) as channel:
        stub = beam_job_api_pb2_grpc.JobServiceStub(channel)
        request = beam_job_api_pb2.GetJobStateRequest(job_id=unquote(identifier))
        state = stub.GetState(request, timeout=_TIMEOUT_S).state
    return str(beam_job_api_pb2.JobState.Enum.Name(state))


def _reason(error: Exception) -> str:
    details = getattr(error, "details", None)  # grpc's
    text = str(details() if callable(details) else error).strip() or type(error).__name__
    return text.splitlines()[0][:300]

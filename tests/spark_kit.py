"""A standalone Spark cluster on loopback, and `beamclip` jobs on it: master, worker, job server, Python worker pool."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.spark_daemon import ROOT, Daemon, environment, free_port
from tests.spark_jars import ADD_OPENS, JOB_SERVER, job_server_jar, spark_home

CACHE_MILLIS = 600_000
CORES = 2
_POOL = (sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main")
_JOB_S = 300.0


class NotEnded(Exception):
    """A job took too long."""


class Cluster:
    """Master, one worker, job server and Python worker pool, each on a free port of loopback.

    work: for logs (kept, for failures) and Spark's own files. events: the event log of every job. loads: a line
    for each encoder that a worker process loads.
    """

    def __init__(self, work: Path, *, cores: int = CORES, executor_memory: str = "512m") -> None:
        self.work = work
        self.events = work / "events"
        self.loads = work / "loads.log"
        self.home = spark_home()
        self._cores = cores
        self._memory = executor_memory
        self.master_port, self.job_port, self.pool_port = free_port(), free_port(), free_port()
        self.master = self._java(
            "master", "org.apache.spark.deploy.master.Master", heap="256m", args=self._master_args()
        )
        self.worker = self._java(
            "worker", "org.apache.spark.deploy.worker.Worker", heap="256m", args=self._worker_args()
        )
        self.job_server = self._java(
            "job-server", "org.apache.spark.deploy.SparkSubmit", heap="512m", args=self._submit_args()
        )
        self.pool = Daemon(
            name="pool",
            command=[*_POOL, f"--service_port={self.pool_port}"],
            log=work / "pool.log",
            env=counting(self.loads),
        )

    def start(self) -> None:
        """Start all; raises NotStarted."""
        self.events.mkdir(parents=True, exist_ok=True)
        self.master.start(port=self.master_port)
        self.worker.start(says="Successfully registered with master")
        self.start_job_server()
        self.pool.start(port=self.pool_port)

    def start_job_server(self) -> None:
        """Start it, or start it again after it was killed."""
        self.job_server.start(port=self.job_port)

    def stop(self) -> None:
        """Kill all, whatever has started."""
        for daemon in (self.job_server, self.pool, self.worker, self.master):
            daemon.kill()

    def executors(self) -> list[psutil.Process]:
        """The executors' JVMs that run now."""
        return [child for child in self.worker.children() if "CoarseGrainedExecutorBackend" in _line(child)]

    def python_workers(self) -> list[psutil.Process]:
        """The SDK harnesses that run now."""
        return [child for child in self.pool.children() if "SdkHarness(" in _line(child)]

    @property
    def staged(self) -> Path:
        """The one jar that a job sends to its executors, which have all of them anyway: not 300 MB each time."""
        (jar,) = self.home.glob("jars/beam-runners-spark-3-*.jar")
        return jar

    def options(self, *, cache_millis: int = CACHE_MILLIS) -> list[str]:
        """What `beamclip` needs to run on this cluster, after its other options."""
        return [
            *("--runner", "PortableRunner"),
            f"--job_endpoint=localhost:{self.job_port}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{self.pool_port}",
            f"--environment_cache_millis={cache_millis}",
            *("--", f"--files_to_stage={self.staged}"),  # Python does not know this option
        ]

    def _java(self, name: str, main: str, *, heap: str, args: list[str]) -> Daemon:
        command = ["java", f"-Xmx{heap}", *ADD_OPENS, "-cp", f"{self.home}/jars/*", main, *args]
        env = {
            "SPARK_HOME": str(self.home),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_SCALA_VERSION": "2.12",
            "SPARK_WORKER_DIR": str(self.work / "worker"),
        }
        return Daemon(name=name, command=command, log=self.work / f"{name}.log", env=env)

    def _master_args(self) -> list[str]:
        return ["--host", "127.0.0.1", "--port", str(self.master_port), "--webui-port", "0"]

    def _worker_args(self) -> list[str]:
        given = ["--host", "127.0.0.1", "--cores", str(self._cores), "--memory", "1g", "--webui-port", "0"]
        return [*given, f"spark://127.0.0.1:{self.master_port}"]

    def _submit_args(self) -> list[str]:
        """Of spark-submit: the job server is the driver, as in docs/spark.md."""
        settings = {
            **event_log(self.events),
            "spark.driver.host": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.executor.memory": self._memory,
            "spark.executor.extraJavaOptions": " ".join(ADD_OPENS),
        }
        given = ["--master", f"spark://127.0.0.1:{self.master_port}", "--deploy-mode", "client"]
        given += [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
        given += ["--class", JOB_SERVER, str(job_server_jar(self.home)), f"--job-port={self.job_port}"]
        return [
            *given,
            "--artifact-port=0",
            "--expansion-port=0",
            f"--artifacts-dir={self.work / 'artifacts'}",
        ]


@contextlib.contextmanager
def running_cluster(work: Path, **options: object) -> Iterator[Cluster]:
    """A cluster that is killed at the end, whatever happens."""
    cluster = Cluster(work, **options)  # type: ignore[arg-type]
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def local_options(events: Path, *, cores: int = CORES) -> list[str]:
    """What `beamclip` needs to run on a Spark of its own: `--runner SparkRunner`, as a user would."""
    events.mkdir(parents=True, exist_ok=True)
    properties = as_properties(
        {**event_log(events), "spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false"}
    )
    return [
        *("--runner", "SparkRunner"),
        f"--spark_job_server_jar={job_server_jar(spark_home())}",
        f"--spark_master_url=local[{cores}]",
        "--environment_type=LOOPBACK",
        f"--environment_cache_millis={CACHE_MILLIS}",
        *(f"--job_server_jvm_properties={line}" for line in properties),
    ]


def event_log(events: Path) -> dict[str, str]:
    """Settings for Spark's own metrics, a file a job."""
    return {"spark.eventLog.enabled": "true", "spark.eventLog.dir": events.as_uri()}


def as_properties(settings: dict[str, str]) -> list[str]:
    """Spark settings as a JVM's system properties, which a SparkConf reads."""
    return [f"-D{name}={value}" for name, value in settings.items()]


def counting(loads: Path) -> dict[str, str]:
    """What makes a process write down each encoder that it loads for its engine."""
    return {"BEAMCLIP_TEST_LOADS": str(loads)}


def loads_of(path: Path, *, since: int = 0) -> list[int]:
    """How often each process loaded an encoder, for the lines from `since` on."""
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted(Counter(line.split()[1] for line in lines[since:]).values())


@contextlib.contextmanager
def started(*args: object, **env: str) -> Iterator[subprocess.Popen[str]]:
    """`beamclip ...` in a process of its own, killed at the block's end with all that it has started."""
    with started_python("-m", "pipelines.cli", *args, **env) as process:
        yield process


@contextlib.contextmanager
def started_python(*args: object, **env: str) -> Iterator[subprocess.Popen[str]]:
    """`python ...` with this source tree, likewise."""
    with subprocess.Popen(
        [sys.executable, *map(str, args)],
        cwd=ROOT,
        env={**environment(), **env},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def finish(process: subprocess.Popen[str], *, seconds: float = _JOB_S) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a job; raises NotEnded after `seconds`."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise NotEnded(f"still running after {seconds:g} s: {error.stderr!r}") from None
    return process.returncode, out, err


def run_beamclip(*args: object, **env: str) -> tuple[int, str, str]:
    """`beamclip ...` to its end."""
    with started(*args, **env) as process:
        return finish(process)


def count_lines(path: Path) -> int:
    """Of a file that may not be there yet."""
    return len(path.read_text().splitlines()) if path.exists() else 0


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""

"""The jars of a Spark and of Beam's Spark job server: fetched once by Maven into a cache, or the test is skipped."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

_ROOT = Path(__file__).parent.parent
_POM = Path(__file__).parent / "spark" / "pom.xml"
_FETCH_S = 900
JOB_SERVER = "org.apache.beam.runners.spark.SparkJobServerDriver"
_OPEN = (
    "java.lang",
    "java.lang.invoke",
    "java.net",
    "java.nio",
    "java.util",
    "java.util.concurrent",
    "sun.nio.ch",
    "sun.security.action",
)
#: What Spark 3.5 needs of Java 17, for every JVM.
ADD_OPENS = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPEN]


@functools.cache
def spark_home() -> Path:
    """A folder whose `jars/` is a whole Spark and job server, `.cache/spark/<hash of the pom>`.

    Skips the test, in one line, where Java or Maven are missing or Maven cannot have the jars.
    """
    for program in ("java", "mvn"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed: no test on Spark")
    home = _ROOT / ".cache" / "spark" / hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock"):
        if not home.exists():
            _fetch(home)
    return home


def job_server_jar(home: Path) -> Path:
    """A jar to give to --spark_job_server_jar: empty but for a manifest that names the others.

    Beam's own, `beam-runners-spark-3-job-server`, is the same classes in one file of 300 MB.
    """
    jar = home / "job-server.jar"
    with FileLock(f"{home}.lock"):
        if not jar.exists():
            made = jar.with_suffix(".new")
            with zipfile.ZipFile(made, "w") as archive:
                archive.writestr("META-INF/MANIFEST.MF", _manifest(sorted((home / "jars").glob("*.jar"))))
            made.rename(jar)
    return jar


def _fetch(home: Path) -> None:
    partial = home.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    command = ["mvn", "-B", "-q", "-f", str(_POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    command += [f"-DoutputDirectory={partial / 'jars'}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"Maven has not brought the Spark jars within {_FETCH_S} s")
    if done.returncode:
        errors = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
        pytest.skip(f"Maven cannot bring the Spark jars: {errors[0] if errors else done.returncode}")
    os.rename(partial, home)


def _manifest(jars: list[Path]) -> bytes:
    """The manifest's text: lines of 72 bytes at most, continued by a space (the JAR file specification)."""
    opens = " ".join(f"java.base/{package}" for package in _OPEN)
    entries = {
        "Manifest-Version": "1.0",
        "Main-Class": JOB_SERVER,
        "Add-Opens": opens,
        "Class-Path": " ".join(f"jars/{jar.name}" for jar in jars),  # relative to this one
    }
    lines = []
    for name, value in entries.items():
        line = f"{name}: {value}"
        lines.append(line[:70])
        lines += [f" {line[start : start + 69]}" for start in range(70, len(line), 69)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()

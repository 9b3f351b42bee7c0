"""Images that kill their process: after two tries the third has their units' images in a child, and goes on."""

from __future__ import annotations

import io
import signal
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.crash_kit import (
    attempts,
    beamclip_process,
    deadly_environment,
    failures,
    killer,
    with_killers,
)
from tests.helpers import image_bytes, make_image, write_images
from tests.runs import all_rows, beamclip, rows, summary, written
from tests.test_crashes import no_unlisted_parts

FIXED = ("--prompts", "everyday", "--encoder", "fake", "--quiet")


def label(folder: object, run: object, *more: object) -> tuple[object, ...]:
    return ("label", "--input", folder, "--output", run, *FIXED, *more)


@pytest.mark.slow
def test_two_resumes_get_over_a_killer(tmp_path: Path) -> None:
    """It comes first, so that the launcher's own look at the input meets it as well."""
    folder, run, fresh = tmp_path / "images", tmp_path / "run", tmp_path / "fresh"
    write_images(folder, 60)
    assert beamclip(*label(folder, fresh)) == 0
    (folder / "aaa.jpg").write_bytes(killer())
    env = deadly_environment(tmp_path)
    assert beamclip_process(env, *label(folder, run, "--dry-run")).returncode == 0
    for tries in (1, 2):
        done = beamclip_process(env, *label(folder, run, "--unit-size", 8, "--resume"))
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert max(name[0] for name in attempts(run)) == str(tries)
    done = beamclip_process(env, *label(folder, run, "--resume"))
    assert done.returncode == 0, done.stderr
    assert "is begun for at least the third time" in done.stderr
    expected = all_rows(fresh)
    assert {**all_rows(run), "failures": []} == expected
    (row,) = failures(run)
    assert (row["uri"], row["stage"], row["reason"]) == (str(folder / "aaa.jpg"), "decode", "crashed_worker")
    assert row["attempts"] == 3
    assert summary(run)["failures_by_reason"] == {"crashed_worker": 1}
    assert (summary(run)["inputs"], summary(run)["embedded"]) == (61, 60)
    assert attempts(run) == []
    assert not (run / "attempts").exists()
    assert no_unlisted_parts(run)


@pytest.mark.slow
def test_many_killers_in_images_tars_and_parquet_cost_two_tries_together(tmp_path: Path) -> None:
    folder, run = tmp_path / "images", tmp_path / "run"
    with_killers(folder, 90, ("image00010a.jpg", "image00011a.jpg", "image00070a.jpg"))
    shard, table = tmp_path / "shard.tar", tmp_path / "table.parquet"
    payloads = [
        killer(signal.SIGSEGV) if number in (3, 17) else image_bytes(make_image(900 + number))
        for number in range(30)
    ]
    with tarfile.open(shard, "w") as tar:
        for number, data in enumerate(payloads):
            member = tarfile.TarInfo(f"{number:04d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    pq.write_table(pa.table({"image": pa.array(payloads, pa.binary())}), table)
    more = ("--unit-size", 16, "--resume", "--max-failure-rate", 1)
    args = ("label", "--input", folder, shard, table, "--output", run, *FIXED, *more)
    env = deadly_environment(tmp_path)
    codes = [beamclip_process(env, *args).returncode for _ in range(3)]
    assert codes[2] == 0
    assert {*codes[:2]} <= {-signal.SIGKILL, -signal.SIGSEGV}
    killers = [f"{folder}/image000{number}a.jpg" for number in (10, 11, 70)]
    killers += [f"{shard}#0003", f"{shard}#0017", f"{table}#3", f"{table}#17"]
    assert [row["uri"] for row in failures(run)] == sorted(killers)
    assert {row["reason"] for row in failures(run)} == {"crashed_worker"}
    found = rows(run, "embeddings")
    assert len(found) == len({row["image_id"] for row in found}) == 90 + 28 + 28
    assert summary(run)["failures_by_reason"] == {"crashed_worker": 7}
    assert no_unlisted_parts(run)


@pytest.mark.slow
def test_a_known_killer_is_retried_in_a_child_at_once(tmp_path: Path) -> None:
    folder, run = tmp_path / "images", tmp_path / "run"
    with_killers(folder, 40, ("killer.jpg",))
    env = deadly_environment(tmp_path)
    assert beamclip_process(env, *label(folder, run, "--fetch-processes", 1)).returncode == 0
    (first,) = failures(run)
    done = beamclip_process(env, "label", "--output", run, "--retry-failed", "--quiet")
    assert done.returncode == 0, done.stderr
    (second,) = failures(run)
    assert (first["reason"], second["reason"]) == ("crashed_worker", "crashed_worker")
    assert second["attempts"] > first["attempts"]
    assert attempts(run) == []
    (folder / "killer.jpg").write_bytes(image_bytes(make_image(77)))
    done = beamclip_process(
        env, "label", "--output", run, "--retry-failed", "--on-changed", "redo", "--quiet"
    )
    assert done.returncode == 0, done.stderr
    assert len(rows(run, "embeddings")) == 41
    assert rows(run, "failures") == []


@pytest.mark.slow
def test_a_worker_process_of_a_portable_runner(tmp_path: Path) -> None:
    """Nothing starts the embedded job service's workers again: the job fails, and resumes as a local one does."""
    folder, run, fresh = tmp_path / "images", tmp_path / "run", tmp_path / "fresh"
    write_images(folder, 60)
    assert beamclip(*label(folder, fresh)) == 0
    (folder / "killer.jpg").write_bytes(killer())
    worker = f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
    runner = ("--runner", "PortableRunner", "--job_endpoint=embed", f"--environment_config={worker}")
    more = ("--unit-size", 8, "--resume", *runner, "--environment_type=beam:env:harness_subprocess_python:v1")
    env = deadly_environment(tmp_path)
    codes = [beamclip_process(env, *label(folder, run, *more)).returncode for _ in range(3)]
    assert codes == [3, 3, 0]
    assert {**all_rows(run), "failures": []} == all_rows(fresh)
    assert [(row["uri"], row["reason"]) for row in failures(run)] == [
        (str(folder / "killer.jpg"), "crashed_worker")
    ]
    assert attempts(run) == []


def test_an_overwrite_deletes_the_attempts(tmp_path: Path) -> None:
    folder, run = tmp_path / "images", tmp_path / "run"
    with_killers(folder, 20, ("killer.jpg",))
    env = deadly_environment(tmp_path)
    assert beamclip_process(env, *label(folder, run)).returncode == -signal.SIGKILL
    (before,) = attempts(run)
    (folder / "killer.jpg").unlink()
    done = beamclip_process(env, *label(folder, run, "--overwrite"))
    assert done.returncode == 0, done.stderr
    assert before.startswith("1/embed/")
    assert [name for name in written(run) if name.startswith("attempts")] == []
    assert len(rows(run, "embeddings")) == 20


@pytest.mark.slow
def test_an_encoder_that_dies_is_not_taken_for_an_image(tmp_path: Path) -> None:
    """The third try says so; no row is lost once the encoder is mended."""
    folder, run = tmp_path / "images", tmp_path / "run"
    write_images(folder, 20)
    env = deadly_environment(tmp_path)
    site = tmp_path / "site" / "sitecustomize.py"
    site.write_text(DEADLY_ENCODER)
    for tries in range(1, 4):
        done = beamclip_process(env, *label(folder, run, "--unit-size", 5, "--resume"))
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert ("should this process die again, none of them kills it" in done.stderr) == (tries >= 3)
    site.write_text("")
    assert beamclip_process(env, *label(folder, run, "--resume")).returncode == 0
    assert len(rows(run, "embeddings")) == 20
    assert rows(run, "failures") == []


DEADLY_ENCODER = """
import os, signal, sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

class Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "clip_transforms.encoders.fake":
            return None
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            encode = module.FakeEncoder.encode_images
            def encode_images(self, pixels):
                if len(pixels) > 1:  # the launcher's own try has one
                    os.kill(os.getpid(), signal.SIGKILL)
                return encode(self, pixels)
            module.FakeEncoder.encode_images = encode_images
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""

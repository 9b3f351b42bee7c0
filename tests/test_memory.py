"""The allocator's limits and the peak."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from clip_transforms import memory
from clip_transforms.memory import limit_malloc, peak_memory


def test_the_peak_is_at_least_what_is_held_now() -> None:
    held = bytearray(50 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert (peak_memory() or 0) > 50 * 2**20


def test_the_users_own_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    assert limit_malloc() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc here")
def test_glibc_takes_the_limits() -> None:
    check = "from clip_transforms.memory import limit_malloc; print(limit_malloc())"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc here")
def test_the_memory_of_a_picture_is_used_again() -> None:
    check = """
import resource
from clip_transforms.memory import limit_malloc
limit_malloc()
picture = bytearray(b"x") * 2**20
del picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    bytearray(b"x") * 2**20
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 256  # pages of one picture: not of each


def test_memory_is_given_back_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((100.0, 100.1, 100.2, 100.3))
    monkeypatch.setattr(memory, "_released", 0.0)
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: next(times)))
    asked: list[str] = []
    pool = SimpleNamespace(release_unused=lambda: asked.append("pool"))
    monkeypatch.setattr(memory, "pa", SimpleNamespace(default_memory_pool=lambda: pool))
    for _ in range(4):
        memory.release_memory()
    assert asked == ["pool"] * 2  # at 100.0 and at 100.3


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc here")
@pytest.mark.parametrize(
    ("given", "found"), [({}, "system"), ({"ARROW_DEFAULT_MEMORY_POOL": "mimalloc"}, "mimalloc")]
)
def test_commands_have_arrow_allocate_under_the_same_limits(given: dict[str, str], found: str) -> None:
    check = "import pipelines.cli, pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    environment = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    done = subprocess.run(
        [sys.executable, "-c", check],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, **given},
    )
    assert done.stdout.strip() == found

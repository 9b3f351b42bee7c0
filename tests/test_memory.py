"""The allocator's limits and the peak."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

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

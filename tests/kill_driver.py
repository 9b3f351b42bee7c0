"""Runs `beamclip ...` again and again, each in a fork that SIGKILL ends at a seeded time; prints what happened.

A process of its own, without threads, so that forking is safe and the imports are paid once.

    python -m tests.kill_driver KILLS SEED LONGEST_S -- label --output RUN ...
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import apache_beam  # noqa: F401 - paid here once

from pipelines import cli, full_run, running  # noqa: F401


def main(argv: list[str]) -> int:
    """Exit code of the last run, which is not killed."""
    kills, seed, longest = int(argv[0]), int(argv[1]), float(argv[2])
    args = argv[argv.index("--") + 1 :]
    chance = random.Random(seed)
    hit = 0
    for number in range(kills + 1):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os._exit(cli.main(args))
        if number == kills:
            break
        if not _wait(child, chance.uniform(0.05, longest)):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            hit += 1
    _, status = os.waitpid(child, 0)
    print(f"killed {hit} of {kills}", flush=True)
    return os.waitstatus_to_exitcode(status)


def _wait(child: int, seconds: float) -> bool:
    """Whether the child ended by itself within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

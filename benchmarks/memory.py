"""Peak memory of `beamclip label` over the number of inputs, for a folder and for tar shards.

    python -m benchmarks.memory            # 20,000 and 200,000 inputs, the fake encoder
    python -m benchmarks.memory 2000 20000

Prints peak resident memory of the whole process and its growth in bytes an image.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = 16
LINKS = 1000  # names a picture has in one folder at most: file systems limit links to one inode
SHARD = 10_000


def pictures() -> list[bytes]:
    """A few small JPEGs."""
    found = []
    for seed in range(PICTURES):
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((32, 24))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG")
        found.append(buffer.getvalue())
    return found


def make_folder(folder: Path, count: int) -> None:
    """`count` names, hard links to few files."""
    folder.mkdir(parents=True)
    data = pictures()
    source = None
    for number in range(count):
        if number % LINKS == 0:
            source = folder / f"{number:07d}.jpg"
            source.write_bytes(data[number // LINKS % PICTURES])
        else:
            os.link(str(source), folder / f"{number:07d}.jpg")


def make_tars(folder: Path, count: int) -> None:
    """`count` members in shards of 10,000."""
    folder.mkdir(parents=True)
    data = pictures()
    for start in range(0, count, SHARD):
        with tarfile.open(folder / f"{start // SHARD:05d}.tar", "w") as tar:
            for number in range(start, min(start + SHARD, count)):
                member = tarfile.TarInfo(f"{number:07d}.jpg")
                member.size = len(data[number % PICTURES])
                tar.addfile(member, io.BytesIO(data[number % PICTURES]))


def peak(source: str, output: Path) -> tuple[int, float]:
    """(peak resident bytes, seconds) of one run in a process of its own."""
    command = [sys.executable, "-m", "pipelines.label", "--input", source, "--prompts", "everyday", "--quiet"]
    command += ["--encoder", "fake", "--output", str(output)]
    started = time.perf_counter()
    with subprocess.Popen(command) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run failed with exit code {process.returncode}")
    return usage.ru_maxrss * 1024, time.perf_counter() - started


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("counts", nargs="*", type=int, default=[20_000, 200_000], help="numbers of inputs")
    counts = parser.parse_args(argv).counts
    print(f"{'input':<8}{'images':>10}{'peak MiB':>10}{'bytes/image more':>18}{'images/s':>10}")
    for kind, make, pattern in (("folder", make_folder, ""), ("tar", make_tars, "/*.tar")):
        before: tuple[int, int] | None = None
        for count in counts:
            work = Path(tempfile.mkdtemp(prefix="beamclip-memory-"))
            try:
                make(work / "in", count)
                found, seconds = peak(f"{work / 'in'}{pattern}", work / "run")
            finally:
                shutil.rmtree(work)
            growth = "" if before is None else f"{(found - before[1]) / (count - before[0]):.1f}"
            print(
                f"{kind:<8}{count:>10,}{found / 2**20:>10.1f}{growth:>18}{count / seconds:>10.0f}", flush=True
            )
            before = (count, found)


if __name__ == "__main__":
    main()

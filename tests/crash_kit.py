"""Images that kill the process that decodes them: a Pillow plugin, for all Pythons that find `site/` on their path."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from tests.helpers import write_images

ROOT = Path(__file__).parent.parent
#: `sitecustomize`: runs before anything else in every process, decode processes and Beam's workers too.
SITE = """
import os, time
from PIL import Image, ImageFile

class Decoder(ImageFile.PyDecoder):
    def decode(self, buffer):
        os.kill(os.getpid(), self.args[0])
        time.sleep(60)

class KillerFile(ImageFile.ImageFile):
    format = "KILLER"
    def _open(self):
        self._mode, self._size = "RGB", (8, 8)
        number = self.fp.read(7)[6]
        self.tile = [("killer", (0, 0, 8, 8), 0, (number,))]

Image.register_decoder("killer", Decoder)
Image.register_open("KILLER", KillerFile, lambda prefix: prefix.startswith(b"KILLER"))
"""


def killer(number: int = signal.SIGKILL) -> bytes:
    """An image whose decoder sends its process this signal."""
    return b"KILLER" + bytes([number])


def deadly_environment(folder: Path) -> dict[str, str]:
    """Environment variables of processes in which a killer kills."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}


def beamclip_process(env: dict[str, str], *args: object) -> subprocess.CompletedProcess[str]:
    """`beamclip ...` in a process of its own, which may die of it."""
    start = "import sys; from pipelines import cli; sys.exit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", start, *(str(arg) for arg in args)]
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def with_killers(folder: Path, count: int, names: tuple[str, ...]) -> None:
    """`count` good images, and killers of these names."""
    write_images(folder, count)
    for name in names:
        (folder / name).write_bytes(killer())


def attempts(run: Path) -> list[str]:
    """The recorded attempts, `<n>/<task>/<unit>`."""
    return sorted(path.relative_to(run / "attempts").as_posix() for path in run.glob("attempts/*/*/[!.]*"))


def failures(run: Path) -> list[dict[str, Any]]:
    """The failure rows of a run by uri, with their attempts."""
    rows: list[dict[str, Any]] = ds.dataset(str(run / "failures"), format="parquet").to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row["uri"]))

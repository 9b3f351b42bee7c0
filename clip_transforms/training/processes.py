"""Training in several processes on the CPU: one thread each, gradients averaged over gloo."""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.multiprocessing.spawn import spawn

from clip_transforms.training.examples import Examples
from clip_transforms.training.loop import Group

#: What each process runs: its examples, and its place among the others.
Work = Callable[[Examples, Group], None]


def run_in_processes(work: Work, examples: Examples, count: int) -> None:
    """Runs `work` in `count` new processes, which share one copy of the pixels; returns when all are done.

    work must be picklable. Raises what a process raised (torch's ProcessRaisedException), after ending the
    others.
    """
    with tempfile.TemporaryDirectory(prefix="beamclip-train-") as folder:
        pixels = Path(folder) / "pixels.npy"
        np.save(pixels, examples.pixels)
        rest = Path(folder) / "examples.pickle"
        whole, examples.pixels = examples.pixels, np.zeros((0, 1, 1, 4), np.uint8)
        try:
            rest.write_bytes(pickle.dumps((work, examples)))
        finally:
            examples.pixels = whole
        spawn(_process, args=(count, _free_port(), folder), nprocs=count, join=True)  # type: ignore[no-untyped-call]


def _process(rank: int, count: int, port: int, folder: str) -> None:
    work, examples = pickle.loads(
        (Path(folder) / "examples.pickle").read_bytes()
    )  # our own file, just written
    examples.pixels = np.load(Path(folder) / "pixels.npy", mmap_mode="r")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.distributed.init_process_group("gloo", rank=rank, world_size=count)
    try:
        work(examples, Group(rank=rank, size=count))
    finally:
        torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])

"""A whole training run: examples in; checkpoints, the exported model and the training curve out."""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from clip_transforms.elements import RequestError
from clip_transforms.training.checkpoints import CHECKPOINT, Progress, export
from clip_transforms.training.curve import plot_curve
from clip_transforms.training.examples import Examples
from clip_transforms.training.loop import Group, Trainer
from clip_transforms.training.model import Architecture, build, freeze
from clip_transforms.training.options import TrainOptions
from clip_transforms.training.processes import run_in_processes

logger = logging.getLogger(__name__)

#: Told of each report: where the run is, and its options. Called in the first process.
Report = Callable[[Progress, TrainOptions], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run trains and where it writes; picklable."""

    architecture: Architecture
    options: TrainOptions
    output: Path
    init: str | None = None
    resume: bool = False


def check_output(plan: RunPlan) -> None:
    """Refuses to write over a run, or to resume one that is not there. Raises RequestError."""
    there = (plan.output / CHECKPOINT).exists()
    if there and not plan.resume:
        raise RequestError(
            f"{plan.output} has a checkpoint already: go on with --resume, or give another --output"
        )
    if plan.resume and not there:
        raise RequestError(f"--resume: {plan.output} has no {CHECKPOINT}")
    plan.output.mkdir(parents=True, exist_ok=True)


def train(plan: RunPlan, examples: Examples, *, report: Report) -> None:
    """Trains to the last step, in one process or several.

    The output folder holds checkpoint.pt, model.json, model.safetensors (fp16; the averaged weights),
    history.json and curve.svg, all renewed at every checkpoint. Raises RequestError.
    """
    check_output(plan)
    work = functools.partial(_work, plan, report)
    if plan.options.processes > 1:
        run_in_processes(work, examples, plan.options.processes)
    else:
        work(examples, Group())


def _work(plan: RunPlan, report: Report, examples: Examples, group: Group) -> None:
    keep_memory()
    torch.set_num_threads(plan.options.threads)
    model = build(plan.architecture, seed=plan.options.seed, init=plan.init)
    freeze(model, plan.options.freeze)
    trainer = Trainer(model, examples, architecture=plan.architecture, options=plan.options, group=group)
    folder = plan.output if group.rank == 0 else plan.output / f"process-{group.rank}"
    folder.mkdir(exist_ok=True)
    if plan.resume:
        trainer.resume(plan.output, own=folder)
    first = group.rank == 0
    trainer.run(
        on_report=(lambda progress: report(progress, plan.options)) if first else (lambda _: None),
        on_checkpoint=functools.partial(_checkpoint, plan, folder, first),
    )


def _checkpoint(plan: RunPlan, folder: Path, first: bool, trainer: Trainer) -> None:
    trainer.save(folder)
    if not first:
        return
    export(plan.output, architecture=plan.architecture, weights=trainer.best.state_dict())
    history = trainer.progress.history
    _replace(plan.output / "history.json", json.dumps(history, indent=0))
    _replace(plan.output / "curve.svg", plot_curve(history, title=f"training {plan.architecture.name}"))
    logger.info("checkpoint at step %d", trainer.progress.step)


def keep_memory() -> None:
    """Tells glibc to keep freed memory: each step frees and asks for the same gigabyte, a fifth of its time.

    Other C libraries have no such call and are left as they are.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallopt = getattr(library, "mallopt", None)
    if mallopt is not None:
        for option, value in ((-3, 2**30), (-1, 2**31 - 1), (-2, 2**28)):  # mmap threshold, trim, top pad
            mallopt(option, value)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)

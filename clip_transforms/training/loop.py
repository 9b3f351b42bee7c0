"""The training loop: batches, loss, steps, averaged weights, checkpoints and progress."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from clip_transforms.training.augment import augment
from clip_transforms.training.batches import Batch, Sampler
from clip_transforms.training.checkpoints import Progress, load_checkpoint, save_checkpoint
from clip_transforms.training.examples import Examples
from clip_transforms.training.losses import clip_loss, proxy_loss, supervised_contrastive
from clip_transforms.training.model import (
    Architecture,
    clamp_scale,
    image_features,
    text_features,
    train_mode,
)
from clip_transforms.training.options import TrainOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1


def rate_at(step: int, options: TrainOptions) -> float:
    """The learning rate of a step: linear warm-up, then half a cosine down to 0.

    >>> [round(rate_at(step, TrainOptions(steps=100, warmup=10)) * 1000, 2) for step in (0, 9, 55, 100)]
    [0.1, 1.0, 0.5, 0.0]
    """
    if step < options.warmup:
        return options.learning_rate * (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def make_optimizer(
    model: nn.Module, options: TrainOptions, *, extra: Sequence[nn.Parameter]
) -> torch.optim.AdamW:
    """AdamW; gains, biases and the logit scale are not decayed (as in CLIP)."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [*(p for _, p in named if p.ndim < 2), *extra]
    decayed = [p for _, p in named if p.ndim >= 2]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), eps=1e-6, foreach=True)


class Trainer:
    """One process's part of a run."""

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        *,
        architecture: Architecture,
        options: TrainOptions,
        group: Group | None = None,
    ) -> None:
        self.group = group or Group()
        self.options = options
        self.architecture = architecture
        self.examples = examples
        self.device = torch.device(options.device)
        self.model = model.to(self.device)
        self.model.get_submodule("visual").to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False) if options.average else None
        # From a generator of their own: every process must begin with the same ones.
        draw = torch.Generator().manual_seed(options.seed)
        vectors = torch.randn(len(examples.concepts), int(architecture.model["embed_dim"]), generator=draw)
        self.proxies = nn.Parameter(vectors.to(self.device) * 0.05)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        if options.concept_weight:
            self.trained.append(self.proxies)
        self.optimizer = make_optimizer(
            model, options, extra=self.trained[-1:] if options.concept_weight else []
        )
        seed = options.seed * 1000 + self.group.rank
        self.sampler = Sampler(examples, seed=seed, captions=options.captions, pairs=options.image_weight > 0)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        context = int(architecture.model["text_cfg"].get("context_length", 77))
        self.tokenizer: Callable[[list[str]], Tensor] = open_clip.SimpleTokenizer(context_length=context)
        self.mean = torch.tensor(architecture.mean, device=self.device)[:, None, None]
        self.std = torch.tensor(architecture.std, device=self.device)[:, None, None]
        self.progress = Progress()

    def pixels(self, batch: Batch) -> Tensor:
        """The batch's pictures, augmented and normalised: [B, 3, S, S]."""
        rgba = torch.from_numpy(self.examples.pixels[batch.rows]).to(self.device).permute(0, 3, 1, 2)
        single = torch.from_numpy(self.examples.single[batch.rows]).to(self.device)
        image = augment(
            rgba, single, size=self.architecture.size, options=self.options.augment, generator=self.generator
        )
        normal = (image - self.mean) / self.std
        return normal.contiguous(memory_format=torch.channels_last)

    def loss(self, batch: Batch, pixels: Tensor) -> Tensor:
        """The batch's loss."""
        tokens = self.tokenizer(batch.texts).to(self.device)
        bf16 = self.options.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            images, texts = image_features(self.model, pixels), text_features(self.model, tokens)
        fits = torch.from_numpy(batch.fits).to(self.device)
        scale = self.model.logit_scale.exp()  # type: ignore[operator]
        total = clip_loss(images, texts, scale, positives=fits)
        groups = torch.from_numpy(self.examples.concept[batch.rows]).to(self.device)
        if self.options.image_weight:
            total = total + self.options.image_weight * supervised_contrastive(images, groups)
        if self.options.concept_weight:
            total = total + self.options.concept_weight * proxy_loss(images, self.proxies, groups)
        return total

    def step(self) -> float:
        """One step of the optimizer; returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.progress.step, self.options)
        batch = self.sampler.batch(self.options.batch_size // self.group.size)
        loss = self.loss(batch, self.pixels(batch))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._share_gradients()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        clamp_scale(self.model)
        self._average()
        self.progress.step += 1
        return float(loss.detach())

    def _share_gradients(self) -> None:
        if self.group.size == 1:
            return
        gradients = [p.grad for p in self.trained if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.group.size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    @torch.no_grad()
    def _average(self) -> None:
        if self.averaged is None:
            return
        # Early on the average follows quickly, or it would remember the random start.
        decay = min(self.options.average, (1 + self.progress.step) / (10 + self.progress.step))
        mine, theirs = self.averaged.state_dict(), self.model.state_dict()
        floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in floats], [theirs[n] for n in floats], 1 - decay)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])

    @property
    def best(self) -> nn.Module:
        """The weights to export: the averaged ones where there are."""
        return self.averaged if self.averaged is not None else self.model

    def settings(self) -> str:
        """What must agree for a run to be resumed."""
        kept = {
            "batch_size": self.options.batch_size,
            "processes": self.group.size,
            "seed": self.options.seed,
        }
        return json.dumps({"model": self.architecture.model, **kept}, sort_keys=True, default=list)

    def save(self, folder: Path) -> None:
        """Writes the checkpoint of this process."""
        states: dict[str, Any] = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.averaged is not None:
            states["averaged"] = self.averaged.state_dict()
        states["proxies"] = self.proxies.detach()
        states["generator"] = self.generator.get_state()
        save_checkpoint(
            folder,
            states=states,
            random=self.sampler.state(),
            progress=self.progress,
            settings=self.settings(),
        )

    def resume(self, folder: Path, *, own: Path | None = None) -> bool:
        """Goes on from a folder's checkpoint; False where there is none. Raises RequestError.

        own: where this process keeps its own, if that is another folder. Of that only the random states are
        taken: processes save one after another, and a run that was killed between two of them would else go
        on at different steps, each waiting for the others' last gradients for ever.
        """
        found = load_checkpoint(folder, settings=self.settings())
        if found is None:
            return False
        states, random, self.progress = found
        mine = load_checkpoint(own, settings=self.settings()) if own not in (None, folder) else None
        if mine is not None:
            states["generator"], random = mine[0]["generator"], mine[1]
        self.model.load_state_dict(states["model"])
        self.optimizer.load_state_dict(states["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(states.get("averaged", states["model"]))
        with torch.no_grad():
            self.proxies.copy_(states["proxies"])
        self.generator.set_state(states["generator"])
        self.sampler.restore(random)
        return True

    def run(self, *, on_report: Callable[[Progress], None], on_checkpoint: Callable[[Trainer], None]) -> None:
        """Trains to the last step; reports and checkpoints on the way."""
        train_mode(self.model, self.options.freeze)
        started, before = time.monotonic(), self.progress.seconds
        saved, losses = started, []
        while self.progress.step < self.options.steps:
            losses.append(self.step())
            self.progress.seconds = before + time.monotonic() - started
            if len(losses) == self.options.report_steps or self.progress.step == self.options.steps:
                mean = sum(losses) / len(losses)
                self.progress.history.append(
                    {
                        "step": self.progress.step,
                        "seconds": round(self.progress.seconds, 1),
                        "loss": round(mean, 4),
                        "rate": rate_at(self.progress.step, self.options),
                        "scale": round(float(self.model.logit_scale.detach().exp()), 2),  # type: ignore[operator]
                    }
                )
                losses = []
                on_report(self.progress)
            if time.monotonic() - saved > self.options.checkpoint_seconds:
                on_checkpoint(self)
                saved = time.monotonic()
        on_checkpoint(self)

"""The losses against open_clip's own, and against their definitions written out."""

from __future__ import annotations

import copy
import math

import numpy as np
import open_clip
import pytest
import torch
from open_clip.loss import ClipLoss
from torch.nn import functional

from clip_transforms.training.batches import Batch
from clip_transforms.training.loop import Trainer, make_optimizer, rate_at
from clip_transforms.training.losses import clip_loss, proxy_loss, supervised_contrastive
from clip_transforms.training.model import build, text_features
from clip_transforms.training.options import TrainOptions
from tests.training_kit import architecture, some_examples


def _features(count: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("positives", [None, "own"])
def test_clip_loss_equals_open_clips(positives: str | None) -> None:
    images, texts, scale = _features(12, 1), _features(12, 2), torch.tensor(14.3)
    fits = torch.eye(12, dtype=torch.bool) if positives else None
    expected = ClipLoss()(images, texts, scale)
    assert float(clip_loss(images, texts, scale, positives=fits)) == pytest.approx(float(expected), abs=1e-5)


def test_every_caption_that_fits_is_a_positive() -> None:
    images, texts, scale = _features(3, 1), _features(3, 2), torch.tensor(5.0)
    fits = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    logits = (scale * images @ texts.T).double()
    total = 0.0
    for matrix in (logits, logits.T):
        log_p = torch.log_softmax(matrix, dim=1)
        rows = [(log_p[0, 0] + log_p[0, 1]) / 2, (log_p[1, 0] + log_p[1, 1]) / 2, log_p[2, 2]]
        total += -float(sum(rows)) / 3 / 2
    assert float(clip_loss(images, texts, scale, positives=fits)) == pytest.approx(total, abs=1e-5)
    assert float(clip_loss(images, texts, scale, positives=fits)) != pytest.approx(
        float(ClipLoss()(images, texts, scale)), abs=1e-3
    )


def test_one_training_step_equals_open_clips() -> None:
    examples = some_examples()
    options = TrainOptions(
        steps=10,
        warmup=0,
        batch_size=8,
        image_weight=0.0,
        concept_weight=0.0,
        average=0.0,
        learning_rate=1e-3,
    )
    # In double precision: they sum in other orders, and AdamW makes a whole step of a gradient's rounding.
    ours = build(architecture(), seed=3).double()
    theirs = copy.deepcopy(ours)
    trainer = Trainer(ours, examples, architecture=architecture(), options=options)
    ours.train()
    theirs.train()
    texts = [f"picture number {k}" for k in range(8)]
    batch = Batch(rows=np.arange(8), texts=texts, fits=np.eye(8, dtype=bool))
    pixels = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(5)).double()

    loss = trainer.loss(batch, pixels)
    loss.backward()
    trainer.optimizer.step()

    tokens = open_clip.SimpleTokenizer(context_length=16)(texts)
    optimizer = make_optimizer(theirs, options, extra=[])
    images, words, scale = theirs(pixels, tokens)
    expected = ClipLoss()(images, words, scale)
    expected.backward()
    optimizer.step()

    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None and other.grad is not None, name
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-5, rtol=0)
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)


def test_texts_cut_behind_the_longest_give_the_same_features() -> None:
    model = build(architecture(), seed=0).eval()
    tokens = open_clip.SimpleTokenizer(context_length=16)(["a cat", "a photo of a very large dog"])
    with torch.no_grad():
        expected = model.encode_text(tokens, normalize=True)  # type: ignore[operator]
        torch.testing.assert_close(text_features(model, tokens), expected, atol=1e-6, rtol=0)


def test_supervised_contrastive_by_its_definition() -> None:
    features, groups = _features(5, 4), torch.tensor([0, 0, 1, 1, -1])
    total, rows = 0.0, 0
    for i in range(4):
        others = [j for j in range(5) if j != i]
        bottom = sum(math.exp(float(features[i] @ features[j]) / 0.1) for j in others)
        partners = [j for j in others if groups[j] == groups[i]]
        total -= sum(
            math.log(math.exp(float(features[i] @ features[j]) / 0.1) / bottom) for j in partners
        ) / len(partners)
        rows += 1
    assert float(supervised_contrastive(features, groups)) == pytest.approx(total / rows, abs=1e-4)


def test_supervised_contrastive_without_partners_is_zero_and_has_a_gradient() -> None:
    features = _features(3, 4).requires_grad_()
    loss = supervised_contrastive(features, torch.tensor([-1, 0, 1]))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert features.grad is not None and float(features.grad.abs().max()) == 0.0


def test_proxy_loss_falls_where_features_lie_on_their_proxies() -> None:
    proxies = torch.eye(4)
    right = proxy_loss(torch.eye(4), proxies, torch.arange(4))
    wrong = proxy_loss(torch.eye(4), proxies, torch.tensor([1, 2, 3, 0]))
    assert float(right) == pytest.approx(math.log(1 + 3 * math.exp(-16)), abs=1e-6)
    assert float(wrong) == pytest.approx(16.0, abs=1e-4)


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    options = TrainOptions(steps=50, warmup=10, learning_rate=2e-3)
    rates = [rate_at(step, options) for step in range(51)]
    assert rates[0] == pytest.approx(2e-4)
    assert max(rates) == pytest.approx(2e-3)
    assert rates[9] == pytest.approx(2e-3)
    assert rates[30] == pytest.approx(1e-3)
    assert rates[50] == pytest.approx(0.0, abs=1e-12)

"""The training losses: CLIP's, with several positives; supervised contrastive; and against all concepts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def clip_loss(images: Tensor, texts: Tensor, scale: Tensor, *, positives: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE (multi-class N-pair loss; CLIP, arXiv:2103.00020, figure 3).

    images [B, D] and texts [B, D] have rows of norm 1, pair i being row i of both; scale is the logit scale,
    already exponentiated. positives [B, B] (bool) says which text fits which image beside its own: the target
    of a row is then uniform over all that fit, so a caption that comes twice in a batch is not its own
    negative. Without repeats it is exactly open_clip's ClipLoss.

    >>> eye = torch.eye(3)
    >>> round(float(clip_loss(eye, eye, torch.tensor(0.0))), 4)  # log(3): nothing known
    1.0986
    """
    logits = scale * images @ texts.T
    count = len(logits)
    if positives is None:
        target = torch.arange(count, device=logits.device)
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
    fits = positives | torch.eye(count, dtype=torch.bool, device=logits.device)
    return (_soft_cross_entropy(logits, fits) + _soft_cross_entropy(logits.T, fits.T)) / 2


def _soft_cross_entropy(logits: Tensor, fits: Tensor) -> Tensor:
    target = fits.to(logits.dtype)
    target = target / target.sum(dim=1, keepdim=True)
    return -(target * functional.log_softmax(logits, dim=1)).sum(dim=1).mean()


def supervised_contrastive(features: Tensor, groups: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Pictures of one group near each other, whatever their style (Khosla et al., arXiv:2004.11362, L_out).

    features [B, D] have rows of norm 1; groups [B] holds the group of each, -1 for none. Rows alone in their
    group do not count; 0 where no row has a partner.

    >>> same = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=1)
    >>> bool(supervised_contrastive(same, torch.tensor([0, 0, 1])) < 0.001)
    True
    """
    count = len(features)
    others = ~torch.eye(count, dtype=torch.bool, device=features.device)
    partners = (groups[:, None] == groups[None, :]) & (groups[:, None] >= 0) & others
    logits = (features @ features.T / temperature).masked_fill(~others, float("-inf"))
    log_p = functional.log_softmax(logits, dim=1).masked_fill(~others, 0.0)
    has = partners.any(dim=1)
    if not bool(has.any()):
        return features.sum() * 0.0
    mean = (log_p * partners).sum(dim=1)[has] / partners.sum(dim=1)[has]
    return -mean.mean()


def proxy_loss(features: Tensor, proxies: Tensor, groups: Tensor, *, scale: float = 16.0) -> Tensor:
    """Each picture near the learnt vector of its concept and far from all others' (arXiv:1811.12649).

    A batch holds a small part of the concepts; here every picture is contrasted with all of them. features
    [B, D] have rows of norm 1; proxies [C, D] need not; groups [B] are rows of proxies.

    >>> round(float(proxy_loss(torch.eye(2), torch.zeros(4, 2), torch.tensor([0, 1]))), 4)  # log(4)
    1.3863
    """
    logits = scale * features @ functional.normalize(proxies, dim=1).T
    return functional.cross_entropy(logits, groups)

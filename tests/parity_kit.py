"""A whole run held against open_clip called by hand: the largest differences of embeddings and probabilities."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch

from clip_transforms.images import DecodeOptions, decode_rgb
from clip_transforms.prompts import load_prompt_set
from tests.models_kit import by_hand, save_model
from tests.runs import beamclip, rows
from tests.test_parity import PICTURES, embed_by_hand

PROMPTS = "photo-kind"


@dataclass(frozen=True, kw_only=True)
class Differences:
    """The largest absolute differences over all pictures."""

    pictures: int
    embedding: float
    probability: float


def differences(kind: str, work: Path) -> Differences:
    """Run `beamclip label` over the 64 pictures with a small model, draft off, and compare its Parquet."""
    folder, run = work / "images", work / "run"
    folder.mkdir(parents=True)
    for number, picture in enumerate(PICTURES):
        (folder / f"{number:02d}.png").write_bytes(picture.data)
    weights, config = save_model(work, kind)
    model_options = ("--weights", weights, "--model-config", config, "--precision", "fp32", "--device", "cpu")
    asked = (
        "label",
        "--input",
        folder,
        "--prompts",
        PROMPTS,
        "--no-draft",
        "--top-k",
        99,
        "--quiet",
        "--output",
        run,
    )
    if beamclip(*asked, *model_options):
        raise RuntimeError("the run failed")
    embedded = {int(Path(row["uri"]).stem): row["embedding"] for row in rows(run, "embeddings")}
    ours = np.array([embedded[number] for number in range(len(PICTURES))])
    images = [decode_rgb(picture.data, DecodeOptions(draft=False))[0] for picture in PICTURES]
    vectors = embed_by_hand(kind, images)
    names, expected = probabilities_by_hand(kind, vectors, config)
    tag = next(path.name for path in (run / "labels").iterdir())
    scores = {int(Path(row["uri"]).stem): row["top_k"] for row in rows(run, f"labels/{tag}")}
    told = [{entry["label"]: entry["score"] for entry in scores[number]} for number in range(len(PICTURES))]
    found = np.array([[row[name] for name in names] for row in told])
    return Differences(
        pictures=len(PICTURES),
        embedding=float(np.abs(ours - vectors).max()),
        probability=float(np.abs(found - expected).max()),
    )


def probabilities_by_hand(kind: str, vectors: np.ndarray, config: str) -> tuple[list[str], np.ndarray]:
    """(classes, [N, C]): (scale * img @ txt.T).softmax(-1), or the sigmoid with the bias."""
    model = by_hand(kind)
    body = json.loads(Path(config).read_text())
    length = body.get("model_cfg", body)["text_cfg"]["context_length"]
    found = {}
    with torch.no_grad():
        for name, prompts in load_prompt_set(PROMPTS).prompts_by_class().items():
            tokens = open_clip.tokenize(list(prompts), context_length=length)
            mean = model.encode_text(tokens, normalize=True).mean(0)
            found[name] = mean / mean.norm()
        texts = torch.stack(list(found.values()))
        logits = model.logit_scale.exp() * torch.from_numpy(vectors) @ texts.T
        if model.logit_bias is None:
            return list(found), logits.softmax(-1).numpy()
        return list(found), (logits + model.logit_bias).sigmoid().numpy()

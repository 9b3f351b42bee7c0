"""What other Beam frameworks plug in: RunInference handlers, MLTransform embeddings, Beam YAML transforms."""

from __future__ import annotations

from clip_transforms.plugins.inference import ClipImageHandler, ClipTextHandler
from clip_transforms.plugins.mltransform import ClipImageEmbeddings, ClipTextEmbeddings
from clip_transforms.plugins.yaml import YamlEmbedImages, YamlLabelEmbeddings, YamlReadImages

__all__ = [
    "ClipImageEmbeddings",
    "ClipImageHandler",
    "ClipTextEmbeddings",
    "ClipTextHandler",
    "YamlEmbedImages",
    "YamlLabelEmbeddings",
    "YamlReadImages",
]

"""Inputs of every kind as references: scanned on the launcher, read unit by unit on workers."""

from clip_transforms.sources.braces import expand_inputs
from clip_transforms.sources.listing import Listed, list_objects, stat_object
from clip_transforms.sources.options import (
    FORMATS,
    IMAGE_SUFFIXES,
    PlanItem,
    SourceOptions,
    is_kept,
    parse_carry,
    with_private_inputs,
)
from clip_transforms.sources.reading import read_unit
from clip_transforms.sources.scanning import limit_items, scan
from clip_transforms.sources.urls import canonical_uri, has_credentials, image_id_of, scrub
from clip_transforms.sources.webdataset import is_lost_shard

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "Listed",
    "PlanItem",
    "SourceOptions",
    "canonical_uri",
    "expand_inputs",
    "has_credentials",
    "image_id_of",
    "is_kept",
    "is_lost_shard",
    "limit_items",
    "list_objects",
    "parse_carry",
    "read_unit",
    "scan",
    "scrub",
    "stat_object",
    "with_private_inputs",
]

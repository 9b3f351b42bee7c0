"""Answers of annotators, as the tools that they worked with write them down, made into reviews of a run."""

from clip_transforms.review.importers.answers import Answer, Reason, Rejected, Unanswered
from clip_transforms.review.importers.collect import Collected, Reviewers, collect
from clip_transforms.review.importers.cvat import Named, read_manifest
from clip_transforms.review.importers.readers import SOURCES, read_answers

__all__ = [
    "SOURCES",
    "Answer",
    "Collected",
    "Named",
    "Reason",
    "Rejected",
    "Reviewers",
    "Unanswered",
    "collect",
    "read_answers",
    "read_manifest",
]

"""Image-text pairs: their scores, the rules, duplicates and the cut that choose among them, and what is written.

What is listed here are plain functions on arrays and tables, for other people's programs; the modules `config`,
`chunks`, `rows`, `duplicates`, `steps` and `finish` carry out a selection over a stored run, which
`clip_transforms.transforms.select` wires.
"""

from __future__ import annotations

from clip_transforms.pairs.cut import Cut, keep_above, top_fraction
from clip_transforms.pairs.exact import exact_duplicates
from clip_transforms.pairs.near import NearDuplicates, near_duplicates
from clip_transforms.pairs.rule_files import load_rules, rule_sets
from clip_transforms.pairs.rules import Rule, RuleSet, judge
from clip_transforms.pairs.semantic import SemanticDuplicates, semantic_duplicates
from clip_transforms.pairs.uids import uid_array, uid_bytes

__all__ = [
    "Cut",
    "NearDuplicates",
    "Rule",
    "RuleSet",
    "SemanticDuplicates",
    "exact_duplicates",
    "judge",
    "keep_above",
    "load_rules",
    "near_duplicates",
    "rule_sets",
    "semantic_duplicates",
    "top_fraction",
    "uid_array",
    "uid_bytes",
]

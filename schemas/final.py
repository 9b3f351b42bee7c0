"""The rows of `labels-*.parquet` of a finished data set: one per labelled image, with who decided its label."""

from __future__ import annotations

import pyarrow as pa

_DICT = pa.dictionary(pa.int32(), pa.string())
_WORDS = pa.list_(pa.field("element", pa.string()))

FINAL = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", _DICT),  # the final one; null where undecided, or in a multi-label set
        pa.field("labels", _WORDS),  # multi-label sets only; null where undecided
        pa.field("path", _WORDS),  # hierarchy only: from the root to the label
        # reviewer, model_auto_accept and probe (above a threshold with a guarantee), model, undecided
        pa.field("decided_by", _DICT, nullable=False),
        pa.field("reason", _DICT, nullable=False),  # conflict, label_not_in_set, reviewed, or decision_reason
        pa.field("reviewers", _WORDS),  # all who answered; null where nobody did
        pa.field("conflict", pa.bool_(), nullable=False),  # they do not agree; the answer of most holds
        pa.field("model_label", _DICT),
        pa.field("model_labels", _WORDS),
        pa.field("score", pa.float32(), nullable=False),  # of the model's label, as in labels/
        pa.field("calibrated", pa.float32()),
        pa.field("prompt_set", _DICT, nullable=False),  # <set>@<hash8>
        pa.field("format", _DICT, nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # hex, of the encoded image
        pa.field("file", pa.string()),  # its copy in the data set; null without one
    ]
)

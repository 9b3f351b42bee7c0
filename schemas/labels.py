"""The rows of `labels/<set>@<hash8>/part-*.parquet`: one per embedded image and prompt set."""

from __future__ import annotations

import pyarrow as pa

_DICT = pa.dictionary(pa.int32(), pa.string())

TOP_K = pa.list_(
    pa.field(
        "element",
        pa.struct(
            [
                pa.field("label", pa.string()),
                pa.field("score", pa.float32()),
                pa.field("cosine", pa.float32()),
            ]
        ),
    )
)

LABELS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", _DICT),  # null when abstained, or in a multi-label set
        pa.field(
            "score", pa.float32(), nullable=False
        ),  # probability of the label (of the best class when abstained)
        pa.field("calibrated", pa.float32()),  # null before `calibrate`
        pa.field("cosine", pa.float32(), nullable=False),  # raw cosine behind `score`
        pa.field("margin", pa.float32(), nullable=False),  # p1 - p2; multi: least distance to a threshold
        pa.field("entropy", pa.float32(), nullable=False),  # divided by log(number of classes): 0..1
        pa.field("top_k", TOP_K, nullable=False),  # falling score
        pa.field("labels", pa.list_(pa.field("element", pa.string()))),  # multi-label sets only
        pa.field("path", pa.list_(pa.field("element", pa.string()))),  # hierarchy only: from the root
        pa.field("decision", _DICT, nullable=False),  # auto_accept, review, abstain
        pa.field("decision_reason", _DICT, nullable=False),
        pa.field("prompt_set", _DICT, nullable=False),  # <set>@<hash8>
        pa.field("fingerprint", _DICT, nullable=False),
        pa.field("encoder", _DICT, nullable=False),
        pa.field("run_id", _DICT, nullable=False),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

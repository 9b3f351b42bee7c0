"""The form of a review CSV, which is exported to be filled in, downloaded from report.html, and imported."""

from __future__ import annotations

#: Its columns; those from `labels` to `comment` are the answer's, and come empty. sha256: of the picture.
ANSWER_COLUMNS = (
    "image_id",
    "uri",
    "prompt_set",
    "shown",
    "labels",
    "reviewer",
    "reviewed_at",
    "lead_time",
    "comment",
    "sha256",
)
#: Between several labels of one cell.
SEPARATOR = "|"

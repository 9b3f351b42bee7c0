"""Parquet against open_clip by hand: embeddings and probabilities of whole runs, same weights, fp32, draft off."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models_kit import MODELS
from tests.parity_kit import differences


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_run_equals_open_clip_by_hand(kind: str, tmp_path: Path) -> None:
    found = differences(kind, tmp_path)
    assert found.pictures == 64
    assert found.embedding < 1e-5
    assert found.probability < 1e-5

"""How far a run's Parquet is from open_clip called by hand, with the same weights.

    python -m benchmarks.parity

64 generated pictures of many modes and sizes; a small ViT, a small ResNet, and a custom configuration with
SigLIP's image tower and a logit bias; fp32, draft off. Prints the largest absolute differences.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.models_kit import MODELS
from tests.parity_kit import differences


def main() -> None:
    """Print the table."""
    print(f"{'model':<8}{'pictures':>10}{'embedding':>12}{'probability':>13}")
    for kind in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            found = differences(kind, Path(folder) / "work")
        print(f"{kind:<8}{found.pictures:>10}{found.embedding:>12.1e}{found.probability:>13.1e}", flush=True)


if __name__ == "__main__":
    main()

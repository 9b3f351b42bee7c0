"""`report.html` of a run: where its images are found again, and which parts are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clip_transforms.live import live_parts
from clip_transforms.review import ReportInputs, write_report
from clip_transforms.storage import Store
from pipelines.rereading import image_lookup


def write_run_report(store: Store, summary: Mapping[str, Any], *, allow_private_urls: bool = False) -> str:
    """Write the page of a run, finished or not; its full path.

    summary: the content of run.json, or what `beamclip status` recounts. allow_private_urls: its pictures are
    fetched again, guarded as they were for the run unless this is set.
    """
    other = summary.get("from_run")
    source = Store(str(other), store.storage_options) if other else None
    parts = [part.name for found in live_parts(store).values() for part in found]
    write_report(
        store,
        data=ReportInputs(run=summary, parts=parts, source=source),
        load_image=image_lookup(source or store, allow_private_urls=allow_private_urls),
    )
    return store.join("report.html")

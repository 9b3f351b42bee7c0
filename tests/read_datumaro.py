"""Prints what datumaro reads of a folder, as JSON: `.cache/datumaro/bin/python read_datumaro.py FORMAT FOLDER`."""

from __future__ import annotations

import json
import sys
from typing import Any


def main(kind: str, folder: str) -> None:
    """Each item with its labels by name, and their attributes."""
    import datumaro  # of another environment: this module is collected in ours

    found = datumaro.Dataset.import_from(folder, kind)
    categories = found.categories()[datumaro.AnnotationType.label]
    items: dict[str, Any] = {}
    for item in found:
        media = item.media
        labels = [
            {
                "label": categories[each.label].name,
                **{key: str(value) for key, value in each.attributes.items()},
            }
            for each in item.annotations
        ]
        items[item.id] = {
            "labels": labels,
            "path": getattr(media, "path", None),
            "size": None if media is None or media.size is None else list(media.size),
            "attributes": dict(item.attributes),
        }
    parents = {each.name: each.parent for each in categories.items}
    print(json.dumps({"labels": parents, "items": items}))


if __name__ == "__main__":
    main(*sys.argv[1:])

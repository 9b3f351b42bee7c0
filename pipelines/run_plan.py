"""Looking at a run before a job starts, where a refusal of the store is the request's fault."""

from __future__ import annotations

from clip_transforms.elements import ForbiddenError, RequestError
from clip_transforms.plan import Extension, read_extensions
from clip_transforms.storage import Store


def run_plan(store: Store) -> list[Extension]:
    """The extensions of a run's plan; none where there is no run. RequestError where the store says no."""
    try:
        return read_extensions(store)
    except ForbiddenError as error:
        raise RequestError(
            f"{error}; give the rights to list and read {store.root}, by the credentials of this machine's environment"
        ) from error

"""How the images of a run are read again, for its report and for reviews, guarded as they were for the run."""

from __future__ import annotations

from clip_transforms.fetch import FetchOptions
from clip_transforms.plan import read_extensions
from clip_transforms.sources import SourceOptions
from clip_transforms.sources.lookup import ImageLookup
from clip_transforms.storage import Store
from clip_transforms.url_guard import schemes_of
from pipelines.job import source_options, stored_identity
from pipelines.options import identity_from


def rereading(run: Store, *, allow_private_urls: bool) -> tuple[SourceOptions, FetchOptions]:
    """Of the inputs of a run with embeddings, as its plan has them. allow_private_urls: lifts the guard."""
    identity = identity_from({}, stored_identity(read_extensions(run)))
    fetching = FetchOptions(
        max_bytes=identity.max_bytes,
        storage_options=run.storage_options,
        allow_private_urls=allow_private_urls,
        schemes=schemes_of(identity.input),
    )
    return source_options(identity, identity.input, run.storage_options), fetching


def image_lookup(run: Store, *, allow_private_urls: bool) -> ImageLookup:
    """The encoded bytes of a run's images by uri."""
    return ImageLookup(*rereading(run, allow_private_urls=allow_private_urls))

"""Listings of any length from stores that page: counted exactly, one page in memory."""

from __future__ import annotations

import tracemalloc

import pytest

from clip_transforms.listing_pages import Entry, list_entries
from tests.fake_pages import FakeGcs, FakeS3


@pytest.mark.parametrize(("kind", "version"), [(FakeGcs, "100499"), (FakeS3, "18893")])
def test_a_long_listing_is_exact_and_holds_a_page_at_a_time(
    kind: type[FakeGcs] | type[FakeS3], version: str
) -> None:
    """As `python -m benchmarks.listing` does with 10,500,000 objects."""
    store, found, last = kind(100_500), 0, None
    tracemalloc.start()
    try:
        for entry in list_entries(store, "bucket/images"):
            found, last = found + 1, entry
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found, store.pages) == (100_500, 101)
    assert last == Entry("000100499.jpg", 5, version)
    assert peak < 3_000_000  # all of it would be over 20 MB

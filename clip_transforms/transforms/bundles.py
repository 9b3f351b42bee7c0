"""The images of one bundle on their way through the process's engine, each handed back once with its ticket."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Generic, TypeVar

from clip_transforms.elements import Failure, ImageRef
from clip_transforms.encoders.base import Encoder
from clip_transforms.engine import EncodedBatch, Engine, EngineOptions, EngineStats
from clip_transforms.fingerprint import embedding_fingerprint
from clip_transforms.transforms.elements import EmbeddedImage, EncodedBy, embedded_image

T = TypeVar("T")

#: What waits between a bundle and the engine: the engine has a budget of its own for what it holds.
FEED_ITEMS = 64
FEED_BYTES = 16 * 2**20


class Feed:
    """Hands items from the bundle's thread to the engine's; bounded, and an iterator until it is closed."""

    def __init__(self, *, max_items: int = FEED_ITEMS, max_bytes: int = FEED_BYTES) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: deque[tuple[ImageRef | Failure, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: ImageRef | Failure) -> bool:
        """Add an item once there is room (one larger than all of it enters alone); False once closed."""
        size = len(item.payload or b"") if isinstance(item, ImageRef) else 0
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(size))
            if self._closed:
                return False
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()
            return True

    def close(self) -> None:
        """No more items; those inside are still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> ImageRef | Failure:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._items))
            if not self._items:
                raise StopIteration
            item, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return item

    def _has_room(self, size: int) -> bool:
        if not self._items:
            return True
        return len(self._items) < self._max_items and self._bytes + size <= self._max_bytes


class _Outcomes:
    """The engine's sink: keeps outcomes until the bundle's thread asks. Knows nothing of the bundle."""

    def __init__(self) -> None:
        self.arrived: deque[EncodedBatch | Failure] = deque()

    def embedded(self, batch: EncodedBatch) -> None:
        self.arrived.append(batch)

    def failed(self, failure: Failure) -> None:
        self.arrived.append(failure)


class ImageBundle(Generic[T]):
    """One bundle in the engine; used by one thread.

    Each `put` comes back exactly once, from `done` or `rest`, as an EmbeddedImage or a Failure with the
    ticket that was put with it. Inside, images are numbered: two inputs of one image_id stay two.
    """

    def __init__(self, engine: Engine) -> None:
        self._encoded_by = encoded_by(engine.encoder, engine.options)
        self._feed = feed = Feed()
        self._outcomes = _Outcomes()
        self._put: dict[str, tuple[ImageRef | Failure, T]] = {}
        self._count = 0
        self._future = engine.submit(self._feed, self._outcomes)
        self._future.add_done_callback(lambda _: feed.close())  # nobody must wait for room any more
        self._drop = weakref.finalize(
            self, _drop, feed, self._future
        )  # the engine's thread waits for the feed

    def put(self, item: ImageRef | Failure, ticket: T) -> None:
        """Send one input; waits while the engine is busy. Raises what ended the engine's work."""
        number = str(self._count)
        self._count += 1
        kept = replace(item, payload=None) if isinstance(item, ImageRef) else item
        self._put[number] = (kept, ticket)
        if not self._feed.put(replace(item, image_id=number)):
            self._future.result()
            raise RuntimeError("the bundle was closed before its last image")

    def done(self) -> Iterator[tuple[EmbeddedImage | Failure, T]]:
        """What has come back since the last call; does not wait."""
        arrived = self._outcomes.arrived
        while arrived:
            outcome = arrived.popleft()
            if isinstance(outcome, Failure):
                item, ticket = self._put.pop(outcome.image_id)
                yield replace(outcome, image_id=item.image_id), ticket
            else:
                yield from self._images(outcome)

    def rest(self) -> Iterator[tuple[EmbeddedImage | Failure, T]]:
        """No more images: all that have not come back yet, waiting for them. Raises as `put`."""
        self._feed.close()
        self._future.result()
        yield from self.done()
        if self._put:
            raise RuntimeError(f"{len(self._put)} images of a bundle have no outcome")

    @property
    def stats(self) -> EngineStats:
        """What the bundle cost; waits for its end."""
        return self._future.result()

    def drop(self) -> None:
        """End without waiting; what is under way is dropped. Harmless after the end."""
        self._drop()

    def _images(self, batch: EncodedBatch) -> Iterator[tuple[EmbeddedImage, T]]:
        for found, info, embedding in zip(batch.refs, batch.infos, batch.embeddings, strict=True):
            ref, ticket = self._put.pop(found.image_id)
            assert isinstance(ref, ImageRef)  # the engine embeds no failures
            yield embedded_image(ref, info, embedding, self._encoded_by), ticket


def encoded_by(encoder: Encoder, options: EngineOptions) -> EncodedBy:
    """What an engine's embeddings depend on; the fingerprint is that of a run with the same options."""
    return EncodedBy(
        encoder=encoder.name,
        weights_id=encoder.weights_id,
        fingerprint=embedding_fingerprint(
            encoder.name,
            weights_id=encoder.weights_id,
            preprocess=asdict(encoder.preprocess),
            decode=asdict(options.decode),
            precision=encoder.precision,
        ),
    )


def _drop(feed: Feed, future: Future[EngineStats]) -> None:
    future.cancel()
    feed.close()

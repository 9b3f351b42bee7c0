"""The DoFns of the public transforms: elements gathered over a bundle, each result put where its element stood."""

# mypy: allow-subclassing-any

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.windowed_value import WindowedValue

from clip_transforms.elements import Failure, ImageRef
from clip_transforms.encoders import EncoderSpec
from clip_transforms.engine import EngineOptions, engine_for
from clip_transforms.sources import SourceOptions
from clip_transforms.transforms.bundles import ImageBundle
from clip_transforms.transforms.elements import EmbeddedImage, ImageLabel, ScoredPair, as_image
from clip_transforms.transforms.listing import Chunk, list_chunks, read_chunk
from clip_transforms.transforms.metrics import count, count_costs, count_failures
from clip_transforms.transforms.text import Classifier, Vector, label_images, score_pairs

FAILURES = "failures"
#: Embeddings that are scored, or captions that are encoded, in one call.
BATCH_ROWS = 512


class Place:
    """Where an element stands in event time; its result is put there."""

    __slots__ = ("element", "pane", "timestamp", "windows")

    def __init__(self, element: object, timestamp: Any, window: Any, pane: Any) -> None:
        self.element = element
        self.timestamp = timestamp
        self.windows = [window]
        self.pane = pane

    def also(self, element: object, timestamp: Any, window: Any, pane: Any) -> bool:
        """Take this call as one more window of the same element; False if it is another element.

        A DoFn that asks for its window is called once for each window of an element (sliding windows):
        the work is to be done once, and the result belongs to all of them.
        """
        same = self.element is element and self.timestamp == timestamp and self.pane == pane
        if not same or window in self.windows:
            return False
        self.windows.append(window)
        return True

    def value(self, result: object) -> WindowedValue:
        """The result at this place."""
        return WindowedValue(result, self.timestamp, tuple(self.windows), self.pane)


class ListInputs(beam.DoFn):
    """An impulse -> the chunks of all inputs."""

    def __init__(self, inputs: Sequence[str], options: SourceOptions, limit: int | None) -> None:
        self._inputs = tuple(inputs)
        self._options = options
        self._limit = limit

    def process(self, _impulse: bytes) -> Iterator[Chunk]:
        return list_chunks(self._inputs, self._options, limit=self._limit)


class ReadChunks(beam.DoFn):
    """A chunk -> its images."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options

    def process(self, chunk: Chunk) -> Iterator[ImageRef | Failure]:
        found = 0
        for image in read_chunk(chunk, self._options):
            found += 1
            yield image
        count({"read": found})


class Embed(beam.DoFn):
    """Sends images to the process's engine as they come, hands on what is done, waits at the bundle's end."""

    def __init__(self, encoder: EncoderSpec, engine: EngineOptions) -> None:
        self._encoder = encoder
        self._engine = engine
        self._bundle: ImageBundle[Place] | None = None
        self._last: Place | None = None

    def setup(self) -> None:
        engine_for(self._encoder, self._engine)

    def start_bundle(self) -> None:
        self._drop()  # of a bundle that failed

    def process(
        self,
        element: object,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[Any]:
        if self._last is not None and self._last.also(element, timestamp, window, pane):
            return
        if self._bundle is None:
            self._bundle = ImageBundle(engine_for(self._encoder, self._engine))
        # The last element may have come back by now, and has all its windows: this is another one.
        yield from self._results(self._bundle.done())
        self._last = Place(element, timestamp, window, pane)
        self._bundle.put(as_image(element), self._last)

    def finish_bundle(self) -> Iterator[Any]:
        if self._bundle is None:
            return
        yield from self._results(self._bundle.rest())
        count_costs(self._bundle.stats)
        self._drop()

    def teardown(self) -> None:
        self._drop()

    def _results(self, outcomes: Iterable[tuple[EmbeddedImage | Failure, Place]]) -> Iterator[Any]:
        embedded = 0
        for outcome, place in outcomes:
            if isinstance(outcome, Failure):
                count_failures([outcome])
                yield TaggedOutput(FAILURES, place.value(outcome))
            else:
                embedded += 1
                yield place.value(outcome)
        if embedded:
            count({"embedded": embedded})

    def _drop(self) -> None:
        if self._bundle is not None:
            self._bundle.drop()
        self._bundle = self._last = None


class _Gather(beam.DoFn):
    """Collects elements up to BATCH_ROWS and works on them together."""

    def __init__(self) -> None:
        self._places: list[Place] = []

    def start_bundle(self) -> None:
        self._places = []

    def add(self, element: object, *where: Any) -> Iterator[WindowedValue]:
        """Take an element; yields the results of a full batch before it."""
        if self._places and self._places[-1].also(element, *where):
            return
        if len(self._places) >= BATCH_ROWS:
            yield from self._flush()
        self._places.append(Place(element, *where))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._places:
            yield from self._flush()

    def _flush(self) -> Iterator[WindowedValue]:
        places, self._places = self._places, []
        for place, results in zip(places, self.work([place.element for place in places]), strict=True):
            for result in results:
                yield place.value(result)

    def work(self, elements: list[Any]) -> Iterable[Sequence[object]]:
        """The results of each element, in their order."""
        raise NotImplementedError


class Label(_Gather):
    """Embeddings, and the classifiers as a side input -> one ImageLabel for each set."""

    def __init__(self) -> None:
        super().__init__()
        self._classifiers: list[Classifier] = []

    def process(
        self,
        element: EmbeddedImage | Vector,
        classifiers: Iterable[Classifier],
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[WindowedValue]:
        if not self._places:
            self._classifiers = sorted(classifiers, key=lambda classifier: classifier.tag)
        return self.add(element, timestamp, window, pane)

    def work(self, elements: list[EmbeddedImage | Vector]) -> Iterable[Sequence[ImageLabel]]:
        found = [label_images(elements, classifier) for classifier in self._classifiers]
        count({"labelled": sum(map(len, found))})
        return zip(*found, strict=True)


class Score(_Gather):
    """Embedded images with captions -> one ScoredPair each."""

    def __init__(self, encoder: EncoderSpec, engine: EngineOptions) -> None:
        super().__init__()
        self._encoder = encoder
        self._engine = engine

    def setup(self) -> None:
        engine_for(self._encoder, self._engine)

    def process(
        self,
        element: EmbeddedImage,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[WindowedValue]:
        return self.add(element, timestamp, window, pane)

    def work(self, elements: list[EmbeddedImage]) -> Iterable[Sequence[ScoredPair]]:
        pairs = score_pairs(elements, engine_for(self._encoder, self._engine).encoder)
        count({"scored": len(pairs)})
        return [(pair,) for pair in pairs]

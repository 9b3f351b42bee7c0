"""The public transforms in pipelines of their own: every input once, in its place, on several runners."""

from __future__ import annotations

import io
import pickle
import re
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.transforms.window import FixedWindows, SlidingWindows, TimestampedValue
from apache_beam.typehints.decorators import TypeCheckError

from clip_transforms.elements import ContractError, Failure, ImageRef, Reason, RequestError, Stage
from clip_transforms.encoders import EncoderSpec, FakeEncoder, load
from clip_transforms.engine import EngineOptions, engine_for
from clip_transforms.images import DecodeOptions, decode_to_pixels
from clip_transforms.prompts import Label, PromptSet, load_prompt_set
from clip_transforms.scoring import score
from clip_transforms.sources import SourceOptions
from clip_transforms.text_features import text_features
from clip_transforms.transforms import (
    FAILURE_ROWS,
    LABEL_ROWS,
    EmbedImages,
    LabelEmbeddings,
    ReadImages,
    ScorePairs,
    as_row,
    classifier,
    embedded_rows,
)
from clip_transforms.transforms.bundles import Feed
from clip_transforms.transforms.dofns import Embed
from tests import beam_kit
from tests.broken_images import broken_files, good_files
from tests.helpers import image_bytes, write_images
from tests.models_kit import save_model

SMALL = EngineOptions(batch_size=4, fetch_threads=3, decode_threads=2)
PETS = PromptSet(name="pets", labels=(Label(id="cat"), Label(id="dog"), Label(id="owl")))


def fake(name: str) -> str:
    """An encoder of a test's own, so that loads and engines are its own too."""
    return f"fake?seed={sum(name.encode())}&dim=16"


def embedding(data: bytes, encoder: str) -> np.ndarray:
    """What the encoder says of an image, by hand."""
    by_hand = load(EncoderSpec(name=encoder))
    pixels, _ = decode_to_pixels(data, DecodeOptions(), by_hand.preprocess)
    return by_hand.encode_images(pixels[None])[0]


def embed(items: list[Any], encoder: str, *, runner: str = "one thread") -> beam_kit.Ran:
    """The items through EmbedImages, in several bundles."""

    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        images = pipeline | beam.Create(items) | beam.Reshuffle()
        return (images | EmbedImages(encoder=encoder, engine=SMALL))._asdict()

    return beam_kit.run(build, runner=runner)


def test_every_kind_of_input_is_read_and_embedded(images: Path, tmp_path: Path) -> None:
    data = image_bytes(seed=50)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, content in {"a.jpg": data, "a.txt": b"a caption"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (tmp_path / "list.csv").write_text(f"uri,id\n{images}/image00003.jpg,three\n{images}/none.jpg,none\n")
    encoder = fake("kinds")
    inputs = [str(images), str(tmp_path / "shard.tar"), str(tmp_path / "list.csv")]

    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        return (pipeline | ReadImages(inputs) | EmbedImages(encoder=encoder, engine=SMALL))._asdict()

    ran = beam_kit.run(build)
    by_uri = {image.uri: image for image in ran["embedded"] if image.image_id != "three"}
    assert sorted(by_uri) == sorted([*map(str, images.iterdir()), f"{tmp_path}/shard.tar#a"])
    assert by_uri[f"{tmp_path}/shard.tar#a"].caption == "a caption"
    np.testing.assert_array_equal(by_uri[f"{tmp_path}/shard.tar#a"].embedding, embedding(data, encoder))
    for path in images.iterdir():
        np.testing.assert_array_equal(by_uri[str(path)].embedding, embedding(path.read_bytes(), encoder))
    assert [(failed.image_id, failed.reason) for failed in ran["failures"]] == [("none", Reason.NOT_FOUND)]
    assert ran.counters["read"] == 15


@pytest.mark.parametrize("runner", beam_kit.RUNNERS)
def test_every_input_has_exactly_one_outcome(runner: str, tmp_path: Path) -> None:
    good, broken = good_files(), broken_files()
    folder = tmp_path / "images"
    folder.mkdir()
    for name, data in [*((name, entry[0]) for name, entry in good.items()), ("twice.jpg", image_bytes())]:
        (folder / name).write_bytes(data)
    items: list[Any] = [
        *(str(folder / name) for name in good),
        *[str(folder / "twice.jpg")] * 3,
        *((name, data) for name, (data, _) in broken.items()),
        ("own id", str(folder / "twice.jpg")),
        "",
        str(folder / "missing.jpg"),
        Failure(image_id="x", uri="x", stage=Stage.LIST, reason=Reason.TRUNCATED_SHARD, message="cut off"),
    ]
    encoder = fake(f"outcomes {runner}")
    FakeEncoder.reset()
    ran = embed(items, encoder, runner=runner)

    names = Counter(Path(image.uri).name for image in ran["embedded"] if image.image_id != "own id")
    assert names == Counter([*good, *["twice.jpg"] * 3])
    assert [Path(image.uri).name for image in ran["embedded"] if image.image_id == "own id"] == ["twice.jpg"]
    # A file without bytes is found out by decoding: it came with its bytes.
    expected = {name: reason for name, (_, reason) in broken.items()}
    expected |= {
        "": Reason.BAD_NAME,
        str(folder / "missing.jpg"): Reason.NOT_FOUND,
        "x": Reason.TRUNCATED_SHARD,
    }
    assert {failed.uri: failed.reason for failed in ran["failures"]} == expected
    assert len(ran["failures"]) == len(expected)

    assert ran.counters["embedded"] == len(good) + 4
    assert ran.counters["failed"] == len(expected)
    reasons = Counter(f"failed_decode_{reason.value}" for _, reason in broken.values())
    assert {name: ran.counters[name] for name in reasons} == reasons
    assert ran.counters["failed_fetch_not_found"] == ran.counters["failed_list_truncated_shard"] == 1
    assert {ran.distributions[name].count for name in ("bytes", "decode_ms", "encode_ms")} == {len(good) + 4}
    assert FakeEncoder.counters().loads == 1


@pytest.mark.parametrize("windows", [FixedWindows(10), SlidingWindows(20, 5)], ids=["fixed", "sliding"])
def test_windows_and_timestamps_are_kept_and_work_is_done_once(windows: Any) -> None:
    times = {f"{number:02d}": number * 3.5 for number in range(20)}
    encoder = fake("windows")
    engine_for(EncoderSpec(name=encoder), SMALL)
    FakeEncoder.reset()

    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        items = [(key, image_bytes(seed=int(key)) if int(key) % 4 else b"text") for key in times]
        stamped = (
            pipeline | beam.Create(items) | beam.Map(lambda item: TimestampedValue(item, times[item[0]]))
        )
        images = stamped | beam.WindowInto(windows)
        embedded, failures = images | EmbedImages(encoder=encoder, engine=SMALL)
        labels = embedded | LabelEmbeddings(prompts=PETS, encoder=encoder, engine=SMALL)
        pairs = embedded | ScorePairs(encoder=encoder, engine=SMALL)
        return {"in": images, "embedded": embedded, "failures": failures, "labels": labels, "pairs": pairs}

    ran = beam_kit.run(build)
    there = Counter((found.value[0], found.timestamp, found.windows) for found in ran.found["in"])
    outcomes = ran.found["embedded"] + ran.found["failures"]
    assert Counter((found.value.image_id, found.timestamp, found.windows) for found in outcomes) == there
    assert len(there) == 20 * (4 if isinstance(windows, SlidingWindows) else 1)
    embedded = Counter(
        (found.value.image_id, found.timestamp, found.windows) for found in ran.found["embedded"]
    )
    for name in ("labels", "pairs"):
        assert (
            Counter((found.value.image_id, found.timestamp, found.windows) for found in ran.found[name])
            == embedded
        )
    assert FakeEncoder.counters().images == 15
    assert FakeEncoder.counters().loads == 0
    assert (ran.counters["embedded"], ran.counters["failed_decode_not_an_image"]) == (15, 5)


def test_equal_elements_in_one_window_stay_two() -> None:
    same = ("a", image_bytes())
    ran = embed([same, same, ("b", same[1])], fake("equal"))
    assert sorted(image.image_id for image in ran["embedded"]) == ["a", "a", "b"]


def test_labels_are_those_of_scoring() -> None:
    encoder = fake("labels")
    items = [(str(seed), image_bytes(seed=seed)) for seed in range(30)]

    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        embedded, _ = pipeline | beam.Create(items) | EmbedImages(encoder=encoder, engine=SMALL)
        stored = embedded | "Stored" >> beam.Map(lambda image: (image.image_id, image.embedding.tolist()))
        both = LabelEmbeddings(prompts=[PETS, "animals"], encoder=encoder, engine=SMALL, top_k=2)
        again = LabelEmbeddings(prompts=classifier(PETS, load(EncoderSpec(name=encoder)), top_k=2))
        return {"embedded": embedded, "labels": embedded | both, "again": stored | "Again" >> again}

    ran = beam_kit.run(build)
    by_hand = load(EncoderSpec(name=encoder))
    images = sorted(ran["embedded"], key=lambda image: image.image_id)
    for prompts in (PETS, load_prompt_set("animals")):
        scored = score(
            np.stack([image.embedding for image in images]),
            text_features(prompts, by_hand),
            prompts,
            family=by_hand.family,
            logit_scale=by_hand.logit_scale,
            top_k=2,
        )
        found = sorted(
            (label for label in ran["labels"] if label.prompt_set.startswith(f"{prompts.name}@")),
            key=lambda label: label.image_id,
        )
        names = [scored.rules.names[place] if place >= 0 else None for place in scored.label]
        assert [(label.image_id, label.label) for label in found] == [
            (image.image_id, name) for image, name in zip(images, names, strict=True)
        ]
        np.testing.assert_array_equal([label.score for label in found], scored.score)
        np.testing.assert_array_equal([label.margin for label in found], scored.margin)
        np.testing.assert_array_equal(
            [[top.cosine for top in label.top_k] for label in found], scored.top_cosine
        )
        assert len({label.fingerprint for label in found}) == 1
    assert ran.counters["labelled"] == 90

    pets = {label.image_id: label for label in ran["labels"] if label.prompt_set.startswith("pets@")}
    assert {label.image_id: label.score for label in ran["again"]} == {
        key: label.score for key, label in pets.items()
    }
    assert {label.fingerprint for label in ran["again"]} == {None}


def test_a_classifier_needs_no_encoder() -> None:
    encoder = fake("no encoder")
    made = classifier(PETS, load(EncoderSpec(name=encoder)))
    vector = made.features.matrix[1].tolist()
    FakeEncoder.reset()
    ran = beam_kit.run(lambda p: {"labels": p | beam.Create([("a", vector)]) | LabelEmbeddings(prompts=made)})
    assert [(label.label, label.uri) for label in ran["labels"]] == [("dog", "a")]
    assert FakeEncoder.counters().loads == 0


def test_texts_of_another_encoder_are_refused() -> None:
    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        embedded, _ = (
            pipeline | beam.Create([("a", image_bytes())]) | EmbedImages(encoder=fake("one"), engine=SMALL)
        )
        return {"labels": embedded | LabelEmbeddings(prompts=PETS, encoder=fake("two"), engine=SMALL)}

    with pytest.raises(Exception, match="its labels are texts of") as raised:
        beam_kit.run(build)
    assert "ContractError" in repr(raised.value) or isinstance(raised.value, ContractError)


def test_pairs_are_scored_by_cosine() -> None:
    encoder = fake("pairs")
    long = " ".join(["word"] * 100)
    captions = ["a cat", None, long, ""]
    refs = [
        ImageRef(image_id=str(seed), uri=str(seed), url="", caption=caption, payload=image_bytes(seed=seed))
        for seed, caption in enumerate(captions)
    ]

    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        embedded, _ = pipeline | beam.Create(refs) | EmbedImages(encoder=encoder, engine=SMALL)
        return {"pairs": embedded | ScorePairs(encoder=encoder, engine=SMALL)}

    pairs = sorted(beam_kit.run(build)["pairs"], key=lambda pair: pair.image_id)
    texts = load(EncoderSpec(name=encoder)).encode_texts(["a cat", long])
    assert pairs[0].similarity == pytest.approx(
        float(embedding(image_bytes(seed=0), encoder) @ texts[0]), abs=1e-6
    )
    assert pairs[2].similarity == pytest.approx(
        float(embedding(image_bytes(seed=2), encoder) @ texts[1]), abs=1e-6
    )
    assert [pair.similarity is None for pair in pairs] == [False, True, False, True]
    assert [pair.text_truncated for pair in pairs] == [False, False, True, False]


def test_a_model_of_open_clip(tmp_path: Path) -> None:
    weights, config = save_model(tmp_path, "vit")
    spec = EncoderSpec(name="open_clip:custom", weights=weights, model_config=config)
    items = [(str(seed), image_bytes(seed=seed)) for seed in range(6)]

    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        embedded, _ = pipeline | beam.Create(items) | EmbedImages(encoder=spec, engine=SMALL)
        return {
            "embedded": embedded,
            "labels": embedded | LabelEmbeddings(prompts=PETS, encoder=spec, engine=SMALL),
        }

    ran = beam_kit.run(build)
    by_hand = load(spec)
    for image in ran["embedded"]:
        pixels, _ = decode_to_pixels(dict(items)[image.image_id], DecodeOptions(), by_hand.preprocess)
        np.testing.assert_allclose(image.embedding, by_hand.encode_images(pixels[None])[0], atol=1e-5)
    assert {label.encoder for label in ran["labels"]} == {by_hand.name}
    assert len(ran["labels"]) == 6


def test_elements_become_rows_of_files(tmp_path: Path) -> None:
    encoder = fake("rows")
    items = [("good", image_bytes()), ("bad", b"text")]
    schemas = {"embedded": embedded_rows(16), "failures": FAILURE_ROWS, "labels": LABEL_ROWS}

    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        embedded, failures = pipeline | beam.Create(items) | EmbedImages(encoder=encoder, engine=SMALL)
        labels = embedded | LabelEmbeddings(prompts=PETS, encoder=encoder, engine=SMALL)
        for name, found in {"embedded": embedded, "failures": failures, "labels": labels}.items():
            rows = found | f"{name} rows" >> beam.Map(as_row)
            _ = rows | f"Write {name}" >> beam.io.WriteToParquet(str(tmp_path / name), schemas[name])
        return {"embedded": embedded}

    ran = beam_kit.run(build)
    tables = {
        name: pa.concat_tables(pq.read_table(path) for path in tmp_path.glob(f"{name}-*")) for name in schemas
    }
    assert {name: table.schema.names for name, table in tables.items()} == {
        name: schema.names for name, schema in schemas.items()
    }
    assert tables["embedded"]["embedding"].to_pylist() == [ran["embedded"][0].embedding.tolist()]
    assert tables["failures"].to_pylist()[0]["reason"] == "not_an_image"
    assert tables["labels"].to_pylist()[0]["label"] in PETS.classes
    assert tables["labels"]["top_k"].to_pylist()[0][0].keys() == {"label", "score", "cosine"}


def test_elements_survive_a_shuffle() -> None:
    encoder = fake("shuffle")

    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        items = [("good", image_bytes()), ("bad", b"text")]
        embedded, failures = pipeline | beam.Create(items) | EmbedImages(encoder=encoder, engine=SMALL)
        labels = (
            embedded | "E" >> beam.Reshuffle() | LabelEmbeddings(prompts=PETS, encoder=encoder, engine=SMALL)
        )
        return {"failures": failures | "F" >> beam.Reshuffle(), "labels": labels | "L" >> beam.Reshuffle()}

    ran = beam_kit.run(build)
    assert [failed.reason for failed in ran["failures"]] == [Reason.NOT_AN_IMAGE]
    assert [label.image_id for label in ran["labels"]] == ["good"]


def test_a_limit_and_a_sample(images: Path) -> None:
    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        sampled = ReadImages(images.as_posix(), options=SourceOptions(sample=0.5, seed=1))
        return {"few": pipeline | "Few" >> ReadImages(str(images), limit=5), "sampled": pipeline | sampled}

    ran = beam_kit.run(build)
    assert len(ran["few"]) == 5
    assert 0 < len(ran["sampled"]) < 12
    assert all(isinstance(image, ImageRef) for image in ran["sampled"])


def test_the_graph_does_not_grow_with_the_input(tmp_path: Path) -> None:
    (tmp_path / "few.csv").write_text("uri\na.jpg\n")
    (tmp_path / "many.csv").write_text("uri\n" + "".join(f"photos/{number}.jpg\n" for number in range(5000)))
    sizes = []
    for name in ("few.csv", "many.csv"):
        pipeline = beam.Pipeline(runner="FnApiRunner")
        _ = pipeline | ReadImages(str(tmp_path / name)) | EmbedImages(encoder="fake")
        sizes.append(len(pipeline.to_runner_api().SerializeToString()))
    assert abs(sizes[1] - sizes[0]) < 100
    ran = beam_kit.run(lambda p: {"images": p | ReadImages(str(tmp_path / "many.csv"))})
    assert len({image.uri for image in ran["images"]}) == 5000


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ReadImages([]), "no inputs"),
        (lambda: ReadImages("a", limit=0), "limit is 0"),
        (lambda: ReadImages("gs://user:pw@bucket/a"), "user or password"),
        (lambda: EmbedImages(encoder="fake?dims=3"), "no option 'dims'"),
        (lambda: EmbedImages(encoder="open_clip:ViT-B-33"), "did you mean 'ViT-B-32'"),
        (lambda: EmbedImages(encoder=EncoderSpec(name="fake", device="gpu")), "device 'gpu'"),
        (lambda: EmbedImages(encoder=3), "a name or an EncoderSpec"),
        (lambda: LabelEmbeddings(prompts="animal", encoder="fake"), "animals"),
        (lambda: LabelEmbeddings(prompts=[], encoder="fake"), "one or more sets"),
        (lambda: LabelEmbeddings(prompts=[PETS, PETS], encoder="fake"), "names of their own"),
        (lambda: LabelEmbeddings(prompts=PETS, encoder="fake", top_k=0), "top_k is 0"),
        (lambda: LabelEmbeddings(prompts=PETS, encoder="nothing:x"), "no encoder 'nothing:x'"),
        (lambda: ScorePairs(encoder="fake?size=3"), "multiple of 8"),
    ],
)
def test_options_are_checked_where_the_transform_is_built(make: Any, told: str) -> None:
    with pytest.raises(RequestError, match=told.replace("?", r"\?")):
        make()


def test_inputs_are_checked_where_the_graph_is_built(tmp_path: Path) -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    with pytest.raises(RequestError, match="none"):
        _ = pipeline | ReadImages(str(tmp_path / "none*.jpg"))
    _ = pipeline | "Later" >> ReadImages(str(tmp_path / "none*.jpg"), check=False)


def test_types_are_checked_where_the_graph_is_built() -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    with pytest.raises(TypeCheckError, match="EmbedImages"):
        _ = pipeline | beam.Create([1, 2]) | EmbedImages(encoder="fake")
    with pytest.raises(TypeCheckError, match="LabelEmbeddings"):
        _ = pipeline | "Texts" >> beam.Create(["a"]) | LabelEmbeddings(prompts=PETS, encoder="fake")


def test_what_is_no_image_ends_the_job() -> None:
    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        unknown = pipeline | beam.Create([(1, "a.jpg")]) | beam.Map(lambda item: item).with_output_types(Any)
        return (unknown | EmbedImages(encoder=fake("no image"), engine=SMALL))._asdict()

    with pytest.raises(Exception, match=r"an image is an ImageRef.*got \(int, str\)"):
        beam_kit.run(build)


def test_steps_have_labels_and_resource_hints() -> None:
    pipeline = beam.Pipeline(runner="FnApiRunner")
    images = pipeline | beam.Create(["a.jpg"])
    hinted = EmbedImages(encoder="fake").with_resource_hints(min_ram="7GB")
    _ = (images | hinted).embedded | LabelEmbeddings(prompts=PETS, encoder="fake")
    labels = beam_kit.labels(pipeline)
    assert {"EmbedImages/Embed/ParDo(Embed)", "LabelEmbeddings/EncodeTexts", "LabelEmbeddings/Label"} <= set(
        labels
    )
    proto = pipeline.to_runner_api()
    steps = {step.unique_name: step for step in proto.components.transforms.values()}
    hints = {
        name: proto.components.environments[steps[name].environment_id].resource_hints
        for name in ("EmbedImages/Embed/ParDo(Embed)", "LabelEmbeddings/Label")
    }
    assert hints["EmbedImages/Embed/ParDo(Embed)"] == {"beam:resources:min_ram_bytes:v1": b"7000000000"}
    assert not hints["LabelEmbeddings/Label"]


def test_transforms_are_pickled_with_their_options(images: Path) -> None:
    given = (
        ReadImages(str(images), options=SourceOptions(sample=0.5), limit=3),
        EmbedImages(encoder="fake?dim=8", engine=SMALL),
        LabelEmbeddings(prompts=PETS, encoder="fake", top_k=2),
        ScorePairs(encoder="fake"),
    )
    for transform in given:
        again = pickle.loads(pickle.dumps(transform))
        assert repr(again) == repr(transform)


def test_a_repr_shows_no_credentials() -> None:
    shown = repr(ReadImages("https://me:secret@host/list.csv", check=False))
    assert "secret" not in shown


def test_building_a_graph_loads_no_torch() -> None:
    lines = [
        "import sys, apache_beam as beam",
        "from clip_transforms.transforms import *",
        "images = beam.Pipeline(runner='FnApiRunner') | beam.Create(['a.jpg'])",
        "found = images | EmbedImages(encoder='fake')",
        "found.embedded | LabelEmbeddings(prompts='animals', encoder='fake')",
        "print('torch' in sys.modules)",
    ]
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def sources() -> list[str]:
    """The engine's threads that read from bundles."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("beamclip-source")]


def wait_for(condition: Any) -> bool:
    """Whether it comes true within ten seconds."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def test_a_bundle_that_fails_downstream_leaves_nothing_behind() -> None:
    def refuse(image: Any) -> None:
        raise ValueError(f"downstream refuses {image.image_id}")

    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        items = [(str(seed), image_bytes(seed=seed)) for seed in range(200)]
        embedded, _ = pipeline | beam.Create(items) | EmbedImages(encoder=fake("leaves"), engine=SMALL)
        return {"refused": embedded | beam.Map(refuse)}

    with pytest.raises(Exception, match="downstream refuses"):
        beam_kit.run(build)
    assert wait_for(lambda: not sources())


def test_a_bundle_that_is_given_up_frees_the_engine() -> None:
    step = Embed(EncoderSpec(name=fake("given up")), SMALL)
    step.setup()
    step.start_bundle()
    for seed in range(3):
        list(step.process((str(seed), image_bytes(seed=seed)), 0, "window", None))
    step.start_bundle()  # the runner tries again
    list(step.process(("again", image_bytes()), 0, "window", None))
    assert [found.value.image_id for found in step.finish_bundle()] == ["again"]
    step.teardown()
    assert wait_for(lambda: not sources())


def test_a_bundle_whose_engine_is_closed_fails_and_the_next_has_a_new_one() -> None:
    spec = EncoderSpec(name=fake("closed"))
    step = Embed(spec, SMALL)
    step.setup()
    step.start_bundle()
    list(step.process(("a", image_bytes()), 0, "window", None))
    engine_for(spec, SMALL).close()
    with pytest.raises(Exception, match="closed"):
        list(step.finish_bundle())
    step.start_bundle()
    list(step.process(("b", image_bytes()), 0, "window", None))
    assert [found.value.image_id for found in step.finish_bundle()] == ["b"]


def test_results_leave_before_the_bundle_ends() -> None:
    step = Embed(EncoderSpec(name=fake("leave")), SMALL)
    step.setup()
    step.start_bundle()
    early = 0

    def some_left() -> bool:
        nonlocal early
        early += len(list(step.process((f"{time.monotonic_ns()}", image_bytes()), 0, "window", None)))
        return early > 0

    assert wait_for(some_left)
    list(step.finish_bundle())


def test_a_feed_is_bounded_by_items_and_bytes() -> None:
    def ref(size: int) -> ImageRef:
        return ImageRef(image_id="a", uri="a", url="", payload=bytes(size))

    feed = Feed(max_items=2, max_bytes=100)
    assert feed.put(ref(1000))  # larger than all: it enters alone
    entered = threading.Event()

    def put_more() -> None:
        assert feed.put(ref(60))
        assert feed.put(ref(30))
        entered.set()
        assert not feed.put(ref(30))

    thread = threading.Thread(target=put_more)
    thread.start()
    assert not entered.wait(0.05)
    assert len(next(feed).payload or b"") == 1000
    assert entered.wait(10)
    feed.close()
    thread.join(10)
    assert [len(item.payload or b"") for item in feed] == [60, 30]


def test_readme_snippet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parent.parent
    (tmp_path / "clip_transforms").symlink_to(root / "clip_transforms")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.S)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    labels = [line for path in (tmp_path / "out").glob("labels*") for line in path.read_text().splitlines()]
    failures = [path.read_text() for path in (tmp_path / "out").glob("failures*")]
    samples = sorted(path.name for path in (root / "clip_transforms" / "samples").glob("*.png"))
    assert sorted(Path(line.split()[0]).name for line in labels) == samples
    right = sum(Path(line.split()[0]).name.startswith(f"{line.split()[1]}-") for line in labels)
    assert right >= len(samples) / 2  # of 18 classes
    assert "".join(failures) == ""


def test_images_keep_what_is_known_of_them(tmp_path: Path) -> None:
    write_images(tmp_path, 1, size=(64, 32))
    ref = ImageRef(
        image_id="own",
        uri="shown",
        url=str(tmp_path / "image00000.jpg"),
        caption="a caption",
        extra='{"a":1}',
        carry=(7,),
    )
    (image,) = embed([ref], fake("known"))["embedded"]
    assert (image.image_id, image.uri) == ("own", "shown")
    assert (image.caption, image.extra, image.carry) == ("a caption", '{"a":1}', (7,))
    assert (image.width, image.height, image.format, len(image.sha256)) == (64, 32, "JPEG", 64)

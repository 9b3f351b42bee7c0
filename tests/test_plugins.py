"""RunInference, MLTransform and Beam YAML, each by running it; what is bad never costs its batch-mates."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.ml.transforms.base import MLTransform
from PIL import Image

from clip_transforms import plugins
from clip_transforms.elements import Failure, ImageRef, Reason, RequestError
from clip_transforms.encoders import EncoderSpec, FakeEncoder, load
from clip_transforms.engine import EngineOptions
from clip_transforms.fetch import FetchOptions
from clip_transforms.images import DecodeOptions, decode_to_pixels
from clip_transforms.plugins import (
    ClipImageEmbeddings,
    ClipImageHandler,
    ClipTextEmbeddings,
    ClipTextHandler,
)
from tests import beam_kit
from tests.broken_images import broken_files, good_files, opened, with_orientation
from tests.helpers import image_bytes, make_image, write_images
from tests.models_kit import save_model

ROOT = Path(__file__).parent.parent
SMALL = EngineOptions(batch_size=4, fetch_threads=3, decode_threads=2)


def fake(name: str) -> str:
    """An encoder of a test's own, so that loads and engines are its own too."""
    return f"fake?seed={sum(name.encode())}&dim=8"


def embedding(data: bytes, encoder: str | EncoderSpec) -> np.ndarray:
    """What the encoder says of an image, by hand."""
    spec = EncoderSpec(name=encoder) if isinstance(encoder, str) else encoder
    by_hand = load(spec)
    pixels, _ = decode_to_pixels(data, DecodeOptions(), by_hand.preprocess)
    return by_hand.encode_images(pixels[None])[0]


def infer(examples: list[Any], handler: Any, *, runner: str = "one thread", **options: Any) -> beam_kit.Ran:
    """The examples through RunInference."""

    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        given = pipeline | beam.Create(examples) | beam.Reshuffle()
        return {"found": given | RunInference(handler, **options)}

    return beam_kit.run(build, runner=runner)


def test_public_names() -> None:
    assert plugins.__all__ == [
        "ClipImageEmbeddings",
        "ClipImageHandler",
        "ClipTextEmbeddings",
        "ClipTextHandler",
        "YamlEmbedImages",
        "YamlLabelEmbeddings",
        "YamlReadImages",
    ]


@pytest.mark.parametrize("runner", beam_kit.RUNNERS)
def test_every_example_has_its_result(runner: str) -> None:
    encoder = fake(f"every {runner}")
    good = [data for data, _ in good_files().values()]
    broken = [data for data, _ in broken_files().values()]
    FakeEncoder.reset()
    handler = ClipImageHandler(encoder=encoder, engine=SMALL, max_batch_size=16)
    ran = infer([*good, *broken, "/no/such.jpg"], handler, runner=runner)
    assert FakeEncoder.counters().loads == 1
    assert Counter(result.example for result in ran["found"]) == Counter([*good, *broken, "/no/such.jpg"])
    found = {result.example: result.inference for result in ran["found"]}
    for data in good:
        np.testing.assert_array_equal(found[data], embedding(data, encoder))
    for data, reason in broken_files().values():
        assert found[data].reason is reason
    assert found["/no/such.jpg"].reason is Reason.NOT_FOUND
    assert {result.model_id for result in ran["found"]} == {encoder}
    assert (ran.counters["embedded"], ran.counters["failed"]) == (len(good), len(broken) + 1)
    assert ran.counters["failed_fetch_not_found"] == 1
    assert ran.counters["num_inferences"] == len(good) + len(broken) + 1


def test_arrays_and_pictures_go_the_way_of_files() -> None:
    encoder = fake("arrays")
    picture = make_image(3)
    grey, alpha = make_image(3, mode="L"), make_image(3)
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    turned = with_orientation(6, "PNG")
    examples = [np.asarray(picture), np.asarray(grey), np.asarray(alpha), picture, grey, alpha]
    files = [image_bytes(image, kind="PNG") for image in (picture, grey, alpha)] * 2
    handler = ClipImageHandler(encoder=encoder, engine=SMALL)
    model = handler.load_model()
    found = handler.run_inference([*examples, opened(turned)], model)
    for result, data in zip(found, [*files, turned], strict=True):
        np.testing.assert_array_equal(result.inference, embedding(data, encoder))


@pytest.mark.parametrize(
    ("example", "told"),
    [
        (np.zeros((4, 4, 3), np.float32), "an array of float32 [4, 4, 3]"),
        (np.zeros((4, 4, 2), np.uint8), "an array of uint8 [4, 4, 2]"),
        (np.zeros((0, 4, 3), np.uint8), "an array of uint8 [0, 4, 3]"),
        (None, "not a valid url"),
        (float("nan"), "got float"),
        (b"", "no bytes"),
        (opened(broken_files()["half.png"][0]), "a RGB picture of 200 x 150"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_an_example_that_is_no_image_fails_alone(example: Any, told: str) -> None:
    encoder = fake("alone")
    handler = ClipImageHandler(encoder=encoder, engine=SMALL)
    before, bad, after = handler.run_inference(
        [image_bytes(), example, image_bytes(seed=1)], handler.load_model()
    )
    assert isinstance(bad.inference, Failure)
    assert told in bad.inference.message
    np.testing.assert_array_equal(before.inference, embedding(image_bytes(), encoder))
    np.testing.assert_array_equal(after.inference, embedding(image_bytes(seed=1), encoder))


def test_texts() -> None:
    encoder = fake("texts")
    texts = ["a cat", "", "a dog " * 200]
    ran = infer([*texts, None], ClipTextHandler(encoder=encoder, engine=SMALL))
    found = {result.example: result.inference for result in ran["found"]}
    rows = load(EncoderSpec(name=encoder)).encode_texts(texts)
    np.testing.assert_array_equal([found[text] for text in texts], rows)
    assert found[None].message == "expected a text, got NoneType"
    assert (ran.counters["embedded"], ran.counters["failed_encode_encode_error"]) == (3, 1)


def test_a_model_of_open_clip(tmp_path: Path) -> None:
    weights, config = save_model(tmp_path, "vit")
    spec = EncoderSpec(name="open_clip:custom", weights=weights, model_config=config)
    examples = [image_bytes(seed=seed) for seed in range(6)]
    ran = infer(examples, ClipImageHandler(encoder=spec, engine=SMALL))
    for result in ran["found"]:
        np.testing.assert_allclose(result.inference, embedding(result.example, spec), atol=1e-5)
    texts = infer(["a cat"], ClipTextHandler(encoder=spec, engine=SMALL))["found"][0].inference
    np.testing.assert_allclose(texts, load(spec).encode_texts(["a cat"])[0], atol=1e-5)


def test_keys_stay_with_their_examples() -> None:
    encoder = fake("keys")
    examples = [(7, image_bytes()), (8, b"text")]
    ran = infer(examples, KeyedModelHandler(ClipImageHandler(encoder=encoder, engine=SMALL)))
    found = dict(ran["found"])
    np.testing.assert_array_equal(found[7].inference, embedding(image_bytes(), encoder))
    assert found[8].inference.reason is Reason.NOT_AN_IMAGE


def test_a_model_can_be_shared_by_processes() -> None:
    encoder = fake("shared")
    handler = ClipImageHandler(encoder=encoder, engine=SMALL, model_copies=2)
    assert (handler.share_model_across_processes(), handler.model_copies()) == (True, 2)
    tag = "beamclip-test-shared"
    try:
        ran = infer([image_bytes(), b"text"], handler, model_identifier=tag)
    finally:
        for path in Path(tempfile.gettempdir()).glob(f"{tag}*"):
            path.unlink()
    found = {result.example: result.inference for result in ran["found"]}
    np.testing.assert_array_equal(found[image_bytes()], embedding(image_bytes(), encoder))
    assert found[b"text"].reason is Reason.NOT_AN_IMAGE


def test_several_threads_share_one_model() -> None:
    encoder = fake("threads")
    handler = ClipImageHandler(encoder=encoder, engine=SMALL)
    FakeEncoder.reset()
    batches = [[image_bytes(seed=10 * batch + seed) for seed in range(10)] for batch in range(8)]
    barrier = threading.Barrier(8)

    def one(batch: list[bytes]) -> list[PredictionResult]:
        barrier.wait(10)
        return list(handler.run_inference(batch, handler.load_model()))

    with ThreadPoolExecutor(8) as pool:
        for batch, results in zip(batches, pool.map(one, batches), strict=True):
            assert [result.example for result in results] == batch
            for result in results:
                np.testing.assert_array_equal(result.inference, embedding(result.example, encoder))
    assert FakeEncoder.counters().loads == 1 + 80  # the engine's, and those by hand


def test_batches_and_bytes() -> None:
    handler = ClipImageHandler(encoder="fake", min_batch_size=3, max_batch_size=9)
    assert handler.batch_elements_kwargs() == {"min_batch_size": 3, "max_batch_size": 9}
    assert not handler.share_model_across_processes()
    ref = ImageRef(image_id="a", uri="a", url="", payload=bytes(7))
    examples = [
        bytes(10),
        "abc",
        np.zeros((2, 2, 3), np.uint8),
        make_image(0, (4, 5)),
        ref,
        ("k", b"12345"),
        None,
    ]
    assert handler.get_num_bytes(examples) == 10 + 3 + 12 + 60 + 7 + 6
    assert repr(pickle.loads(pickle.dumps(handler))) == "ClipImageHandler(fake)"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: ClipImageHandler(encoder="fake?dims=1"), "no option 'dims'"),
        (lambda: ClipImageHandler(encoder="fake", max_batch_size=0), "batch sizes are None to 0"),
        (
            lambda: ClipTextHandler(encoder="fake", min_batch_size=9, max_batch_size=3),
            "batch sizes are 9 to 3",
        ),
        (lambda: ClipTextHandler(encoder="fake", model_copies=0), "model_copies is 0"),
        (lambda: ClipImageHandler(encoder="fake").validate_inference_args({"a": 1}), "inference_args"),
        (lambda: ClipImageHandler(encoder="fake").update_model_path("gs://new"), "cannot be exchanged"),
        (lambda: ClipImageEmbeddings("photo", encoder="fake"), "columns are 'photo'"),
        (lambda: ClipTextEmbeddings([], encoder="fake"), "list of column names"),
        (lambda: ClipTextEmbeddings(["a"], encoder="fake", max_batch_size=0), "batch sizes"),
        (
            lambda: ClipImageEmbeddings(
                ["a"],
                encoder="fake",
                engine=EngineOptions(fetch=FetchOptions(storage_options={"secret": "x"})),
            ),
            "write_artifact_location",
        ),
        (
            lambda: plugins.YamlReadImages(inputs=["a"], error_handling={"outputs": "bad"}),
            "expected {output: NAME}",
        ),
    ],
)
def test_options_are_checked_where_the_plugin_is_built(make: Any, told: str) -> None:
    with pytest.raises(RequestError, match=told.replace("?", r"\?")):
        make()


def test_mltransform_embeds_columns_and_reads_its_artifacts_back(tmp_path: Path) -> None:
    encoder = fake("columns")
    written = MLTransform(write_artifact_location=str(tmp_path / "artifacts"))
    written = written.with_transform(ClipImageEmbeddings(["photo", "sketch"], encoder=encoder, engine=SMALL))
    written = written.with_transform(ClipTextEmbeddings(["caption"], encoder=encoder, engine=SMALL))
    rows = [
        {"id": 1, "photo": image_bytes(), "sketch": np.asarray(make_image(1)), "caption": "a cat"},
        {"id": 2, "photo": b"text", "sketch": None, "caption": None},
    ]
    as_rows = [beam.Row(**row) for row in rows]

    def build(pipeline: beam.Pipeline) -> dict[str, Any]:
        return {"rows": pipeline | beam.Create(rows) | written}

    def build_again(pipeline: beam.Pipeline) -> dict[str, Any]:
        read = MLTransform(read_artifact_location=str(tmp_path / "artifacts"))
        return {"rows": pipeline | beam.Create(as_rows) | read}

    found = {row["id"]: row for row in beam_kit.run(build)["rows"]}
    assert found[1] == {
        "id": 1,
        "photo": embedding(image_bytes(), encoder).tolist(),
        "photo_failure": None,
        "sketch": embedding(image_bytes(make_image(1), kind="PNG"), encoder).tolist(),
        "sketch_failure": None,
        "caption": load(EncoderSpec(name=encoder)).encode_texts(["a cat"])[0].tolist(),
        "caption_failure": None,
    }
    assert found[2] == {
        "id": 2,
        "photo": None,
        "photo_failure": "decode not_an_image: not an image; it looks like text",
        "sketch": None,
        "sketch_failure": "list bad_name: not a valid url",
        "caption": None,
        "caption_failure": "encode encode_error: expected a text, got NoneType",
    }
    again = {row.id: row._asdict() for row in beam_kit.run(build_again)["rows"]}
    assert again == found


def test_mltransform_names_a_missing_column(tmp_path: Path) -> None:
    transform = MLTransform(write_artifact_location=str(tmp_path / "artifacts"))
    transform = transform.with_transform(ClipImageEmbeddings(["photo"], encoder="fake"))
    with pytest.raises(Exception, match="rows have no column photo; they have image"):
        beam_kit.run(lambda p: {"rows": p | beam.Create([{"image": b""}]) | transform})


# -- Beam YAML ----------------------------------------------------------------------------------------------


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for path in folder.glob(f"{name}-*") for line in path.read_text().splitlines()]


@pytest.fixture
def yaml_images(tmp_path: Path) -> Path:
    """Three images and a file that is none."""
    pytest.importorskip("docstring_parser", reason="Beam YAML needs apache-beam[yaml]")
    pytest.importorskip("pandas", reason="Beam YAML needs apache-beam[yaml]")
    write_images(tmp_path / "images", 3)
    (tmp_path / "images" / "bad.jpg").write_bytes(b"text")
    return tmp_path / "images"


def test_the_yaml_example_runs(yaml_images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    variables = {"images": str(yaml_images), "output": str(output), "encoder": "fake"}
    command = [
        *(sys.executable, "-m", "apache_beam.yaml.main", "--runner=FnApiRunner"),
        f"--yaml_pipeline_file={ROOT / 'tests' / 'label_images.yaml'}",
        f"--jinja_variables={json.dumps(variables)}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    labels, failures = lines(output, "labels"), lines(output, "failures")
    assert sorted(row["uri"] for row in labels) == sorted(map(str, yaml_images.glob("image*.jpg")))
    assert {row["prompt_set"].split("@")[0] for row in labels} == {"animals"}
    assert {len(row["top_k"]) for row in labels} == {2}
    assert [(row["uri"], row["reason"]) for row in failures] == [
        (str(yaml_images / "bad.jpg"), "not_an_image")
    ]


def test_yaml_rows_of_other_transforms(yaml_images: Path) -> None:
    from apache_beam.yaml.yaml_transform import YamlTransform

    good, bad = str(yaml_images / "image00000.jpg"), str(yaml_images / "bad.jpg")
    encoder = fake("yaml")
    vector = embedding(Path(good).read_bytes(), encoder).tolist()
    providers = {
        name: beam.yaml.yaml_provider.InlineProvider({name: getattr(plugins, f"Yaml{name}")})
        for name in ("EmbedImages", "LabelEmbeddings")
    }
    text = f"""
        type: composite
        transforms:
          - type: Create
            name: Photos
            config: {{elements: [{{key: 0, photo: "{good}"}}, {{key: 1, photo: "{bad}"}}]}}
          - type: EmbedImages
            input: Photos
            config: {{encoder: "{encoder}", image_column: photo, id_column: key, error_handling: {{output: bad}}}}
          - type: Create
            name: Stored
            config: {{elements: [{{image_id: x, embedding: {vector}}}]}}
          - type: LabelEmbeddings
            input: Stored
            config: {{encoder: "{encoder}", prompts: [animals], top_k: 1}}
        output: {{good: EmbedImages, bad: EmbedImages.bad, labels: LabelEmbeddings}}
    """
    ran = beam_kit.run(lambda pipeline: pipeline | YamlTransform(text, providers=providers))
    (row,), (failed,), (labelled,) = ran["good"], ran["bad"], ran["labels"]
    assert (row.image_id, row.uri, list(row.embedding)) == ("0", good, vector)
    assert (failed.image_id, failed.uri, failed.reason, failed.attempts) == ("1", bad, "not_an_image", 1)
    assert (labelled.image_id, labelled.encoder, labelled.fingerprint) == ("x", encoder, None)
    assert len(labelled.top_k) == 1

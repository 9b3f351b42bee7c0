"""What training sees: decoding with alpha, captions, batches, and the changes made to pictures."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from clip_transforms.elements import RequestError
from clip_transforms.sources.options import SourceOptions
from clip_transforms.training.augment import AugmentOptions, augment, pose
from clip_transforms.training.batches import Sampler, fitting
from clip_transforms.training.captions import CaptionOptions, all_templates, choose
from clip_transforms.training.examples import Example, example_of, gather, is_single, to_square
from clip_transforms.training.reading import read_examples
from tests.helpers import image_bytes, write_images
from tests.training_kit import COLOURS, some_examples, square, write_parquet

STILL = AugmentOptions(
    degrees=0, stretch=0, zoom=(1.0, 1.0), shift=0, flip=0, recolour=0, hue=0, shade=0, highlight=0, outline=0,
    shadow=0, plain=1, blur=0, grey=0, noise=0,
)  # fmt: skip


def test_a_wide_picture_is_kept_whole_and_centred() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (80, 40), (10, 200, 30)).save(buffer, "PNG")
    pixels = to_square(buffer.getvalue(), 20)
    assert pixels.shape == (20, 20, 4)
    assert (pixels[5:15, :, 3] == 255).all()
    assert (pixels[:5, :, 3] == 0).all() and (pixels[15:, :, 3] == 0).all()
    assert tuple(pixels[10, 10]) == (10, 200, 30, 255)


def test_drawings_in_one_colour_are_told_from_others() -> None:
    assert is_single(to_square(square((200, 10, 10), 1), 36))
    assert not is_single(to_square(image_bytes(kind="PNG", seed=3), 36))


def test_an_example_takes_what_its_row_has() -> None:
    extra = json.dumps(
        {"captions": ["kitten", " ", 3], "tags": ["cat", "pet"], "style": "ink", "weight": 0.5}
    )
    example = example_of(b"x", " cat ", extra)
    assert example == Example(
        image=b"x", captions=("cat", "kitten"), tags=("pet",), concept="cat", style="ink", weight=0.5
    )
    assert example_of(b"x", "  ", None) is None


def test_a_broken_picture_is_left_out_and_counted() -> None:
    good = [Example(image=square(COLOURS["red"], k), captions=(str(k),)) for k in range(2)]
    examples = gather([*good, Example(image=b"no picture", captions=("x",))], side=16)
    assert (len(examples), examples.skipped) == (2, 1)
    with pytest.raises(RequestError, match="of this input 1 can be used"):
        gather(good[:1], side=16)


def test_parquet_rows_become_examples(tmp_path: Path) -> None:
    examples = read_examples([str(write_parquet(tmp_path / "a.parquet"))], SourceOptions(), side=24)
    assert examples.pixels.shape == (24, 24, 24, 4)
    assert Counter(examples.captions) == {(name,): 6 for name in COLOURS}
    assert set(examples.tags) == {("square",)}
    assert examples.single.all()


def test_a_manifest_with_captions_is_read_too(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", 3)
    lines = ["path,caption", *(f"{path},picture {number}" for number, path in enumerate(paths))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    examples = read_examples([str(tmp_path / "list.csv")], SourceOptions(), side=24)
    assert sorted(examples.captions) == [("picture 0",), ("picture 1",), ("picture 2",)]


def test_one_caption_for_all_is_refused(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", 3)
    (tmp_path / "list.csv").write_text("\n".join(["path,caption", *(f"{path},same" for path in paths)]))
    with pytest.raises(RequestError, match="all 3 pictures have the caption 'same'"):
        read_examples([str(tmp_path / "list.csv")], SourceOptions(), side=24)


def test_captions_are_chosen_by_their_shares() -> None:
    options = CaptionOptions(template=0.5, tag=0.2, mixed=0.1, first=0.5)
    random = Random(3)
    drawn = [choose(("owl", "barn owl"), ("bird",), options, random) for _ in range(4000)]
    names = Counter(name for name, _ in drawn)
    assert names["bird"] / 4000 == pytest.approx(0.2, abs=0.02)
    assert names["owl"] / 4000 == pytest.approx(0.8 * 0.75, abs=0.03)
    mixed = sum("," in text for _, text in drawn) / 4000
    assert mixed == pytest.approx(0.1, abs=0.02)
    assert "a photo of an owl." in {text for _, text in drawn}


def test_long_captions_are_shown_as_they_are() -> None:
    text = "two dogs run over a green field"
    options = CaptionOptions(template=1.0)
    assert {choose((text,), (), options, Random(seed))[1] for seed in range(20)} == {text}


def test_the_templates_that_prompts_use_are_trained_on() -> None:
    assert {"itap of a {}.", "a drawing of a {}.", "a photo of many {}."} <= set(all_templates())


def test_pairs_show_one_concept_in_two_styles() -> None:
    examples = some_examples()
    batch = Sampler(examples, seed=1, captions=CaptionOptions()).batch(8)
    for k in range(0, 8, 2):
        first, second = batch.rows[k], batch.rows[k + 1]
        assert examples.concept[first] == examples.concept[second]
        assert examples.style[first] != examples.style[second]


def test_fits_says_which_captions_are_true() -> None:
    examples = some_examples()
    batch = Sampler(examples, seed=2, captions=CaptionOptions(tag=0.0, mixed=0.0)).batch(16)
    same = examples.concept[batch.rows][:, None] == examples.concept[batch.rows][None, :]
    assert (batch.fits == same).all()
    assert fitting(["a", "b"], [frozenset("ab"), frozenset("b")]).tolist() == [[True, True], [False, True]]


def test_a_sampler_goes_on_from_its_state() -> None:
    examples = some_examples()
    first = Sampler(examples, seed=2, captions=CaptionOptions())
    first.batch(8)
    second = Sampler(examples, seed=99, captions=CaptionOptions())
    second.restore(json.loads(json.dumps(first.state())))
    one, two = first.batch(8), second.batch(8)
    assert one.rows.tolist() == two.rows.tolist()
    assert one.texts == two.texts


def test_weights_decide_how_often_a_picture_is_drawn() -> None:
    examples = some_examples()
    examples.weight[:] = 1.0
    examples.weight[examples.concept == 0] = 9.0
    sampler = Sampler(examples, seed=5, captions=CaptionOptions())
    counts = Counter(int(c) for _ in range(200) for c in examples.concept[sampler.batch(16).rows])
    assert counts[0] / counts[1] == pytest.approx(3.0, rel=0.2)  # the square root of 9


def _batch(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    examples = some_examples()
    rgba = torch.from_numpy(examples.pixels[:count]).permute(0, 3, 1, 2)
    return rgba, torch.from_numpy(examples.single[:count])


def test_without_changes_a_picture_lies_on_a_pale_ground() -> None:
    rgba, single = _batch()
    image = augment(rgba, single, size=36, options=STILL, generator=torch.Generator().manual_seed(0))
    inside = (rgba[:, 3] == 255)[:, None].expand(-1, 3, -1, -1)
    # Contrast and brightness always vary a little; the hue does not, so the brightest channel stays so.
    assert (image.argmax(dim=1)[inside[:, 0]] == rgba[:, :3].argmax(dim=1)[inside[:, 0]]).all()
    outside = image.permute(0, 2, 3, 1)[(rgba[:, 3] == 0)]
    assert float(outside.min()) > 0.8


def test_changes_are_seeded_and_stay_in_range() -> None:
    rgba, single = _batch()
    images = [
        augment(
            rgba, single, size=32, options=AugmentOptions(), generator=torch.Generator().manual_seed(seed)
        )
        for seed in (1, 1, 2)
    ]
    assert images[0].shape == (6, 3, 32, 32)
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert 0.0 <= float(images[0].min()) <= float(images[0].max()) <= 1.0


def test_clear_pixels_do_not_bleed_into_the_edges() -> None:
    rgba = torch.ones(6, 4, 36, 36)
    rgba[:, 3] = 0
    rgba[:, :, 8:28, 10:30] = torch.tensor([1.0, 0.0, 0.2, 1.0])[:, None, None]
    moved = pose(rgba, 36, AugmentOptions(), torch.Generator().manual_seed(1))
    for k in range(6):
        colour = moved[k, :3][:, moved[k, 3] > 0.02]
        assert colour.shape[1] > 100
        assert float((colour - torch.tensor([[1.0], [0.0], [0.2]])).abs().max()) < 1e-4


def test_drawings_in_one_colour_get_others() -> None:
    rgba, single = _batch()
    options = AugmentOptions(recolour=1.0, plain=1.0, shade=0, highlight=0, noise=0, blur=0, grey=0)
    seen = augment(rgba, single, size=36, options=options, generator=torch.Generator().manual_seed(4))
    again = augment(
        rgba, torch.zeros_like(single), size=36, options=options, generator=torch.Generator().manual_seed(4)
    )
    assert float((seen - again).abs().mean()) > 0.02
    assert np.isfinite(seen.numpy()).all()

"""Decoding by the rules of `decode_rgb`, to_pixels against open_clip, and every broken file's reason."""

from __future__ import annotations

import io
import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from clip_transforms.decode import clean, open_image
from clip_transforms.elements import ImageError, Reason, RequestError, Stage
from clip_transforms.encoders.base import Preprocess
from clip_transforms.images import (
    DRAFT_FACTOR,
    DecodeOptions,
    decode_rgb,
    decode_to_pixels,
    parse_background,
    phash,
    to_pixels,
)
from clip_transforms.rgb import to_rgb
from tests.broken_images import SIZE, broken_files, good_files, huge_png, opened, ramp, with_orientation
from tests.helpers import image_bytes, make_image

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
GOOD, BROKEN = good_files(), broken_files()
#: 8-bit files without alpha or orientation: `convert("RGB")` is their rule.
LIKE_PILLOW = [
    name
    for name, (data, (mode, _)) in GOOD.items()
    if mode in ("RGB", "L", "P", "CMYK", "1") and "trans" not in name and "alphas" not in name
    if "trns" not in name and (not name.startswith("orientation") or name == "orientation1.jpg")
]


def preprocess(height: int, width: int, **options: object) -> Preprocess:
    return Preprocess(height=height, width=width, mean=MEAN, std=STD, **options)


def rgb(name: str, **options: object) -> np.ndarray:
    return np.asarray(decode_rgb(GOOD[name][0], DecodeOptions(**options))[0])


def failure(data: bytes, **options: object) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_rgb(data, DecodeOptions(**options))
    assert caught.value.stage is Stage.DECODE
    return caught.value


@pytest.mark.parametrize("name", GOOD)
def test_every_good_file_decodes_at_its_size(name: str) -> None:
    data, (_, size) = GOOD[name]
    image, info = decode_rgb(data, DecodeOptions())
    assert image.mode == "RGB"
    assert image.size == (info.width, info.height) == size
    assert info.bytes == len(data)
    assert re.fullmatch("[0-9a-f]{64}", info.sha256) and re.fullmatch("[0-9a-f]{16}", info.phash)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's own, of a file that we decode without it
@pytest.mark.parametrize("name", LIKE_PILLOW)
def test_plain_files_equal_pillows_convert(name: str) -> None:
    assert np.array_equal(rgb(name), np.asarray(opened(GOOD[name][0]).convert("RGB")))


def test_the_list_of_plain_files_is_not_thinned_out() -> None:
    assert {"rgb.jpg", "cmyk.jpg", "ycck.jpg", "palette.png", "grey.png", "animated.gif", "rgb16.png"} <= set(
        LIKE_PILLOW
    )


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_file_has_its_reason(name: str) -> None:
    data, reason = BROKEN[name]
    error = failure(data)
    assert error.reason is reason
    assert error.message == failure(data).message
    assert " at 0x" not in error.message and len(error.message) <= 250


def test_info_tells_format_and_hash() -> None:
    info = decode_rgb(GOOD["png-named.jpg"][0], DecodeOptions())[1]
    assert (info.format, info.width, info.height) == ("PNG", *SIZE)
    assert decode_rgb(GOOD["cmyk.jpg"][0], DecodeOptions())[1].format == "JPEG"
    assert decode_rgb(b"P5 1 1 255\n\x80", DecodeOptions())[1].sha256 == (
        "55021324406b6ba0c058194bd50e95796a5ced47eef88f1b21c7a0561a537aa1"
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    lossless = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    data = with_orientation(orientation, kind, **lossless)
    plain = opened(with_orientation(1, kind, **lossless)).convert("RGB")
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)  # EXIF's numbers to Pillow's
    expected = plain if turn is None else plain.transpose(Image.Transpose(turn))
    upright, info = decode_rgb(data, DecodeOptions())
    assert np.array_equal(np.asarray(upright), np.asarray(expected))
    if kind != "TIFF":
        by_pillow = ImageOps.exif_transpose(opened(data)).convert("RGB")
        assert np.array_equal(np.asarray(by_pillow), np.asarray(expected))
    assert (info.width, info.height) == (SIZE if orientation < 5 else SIZE[::-1])
    stored, info = decode_rgb(data, DecodeOptions(exif_transpose=False))
    assert (info.width, info.height) == SIZE
    assert np.array_equal(np.asarray(stored), np.asarray(plain))


def test_16_bit_is_scaled_not_clipped() -> None:
    expected = np.repeat((ramp("uint16", 0, 65535) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    for name in ("i16.png", "i16-little.tif", "i16-big.tif", "i16.pgm", "rgb16.png"):
        assert np.array_equal(rgb(name), expected), name


def test_32_bit_and_float_are_stretched() -> None:
    for name, samples in (
        ("i32.tif", ramp("int32", -100_000, 900_000)),
        ("f32.tif", ramp("float32", -1.5, 2.5)),
        ("f32-big.tif", ramp("float32", 0.0, 1e-3)),
    ):
        samples = samples.astype(np.float64)
        expected = np.rint((samples - samples.min()) * (255 / (samples.max() - samples.min())))
        assert np.array_equal(rgb(name)[..., 0], expected), name
    assert rgb("i32-constant.tif").max() == 0


def test_floats_that_are_no_numbers() -> None:
    samples = np.array([[0.0, 1.0, np.nan], [np.inf, -np.inf, 0.5]], np.float32)
    stretched = np.asarray(to_rgb(Image.fromarray(samples), background=(0, 0, 0)))[..., 0]
    assert stretched.tolist() == [[0, 255, 0], [255, 0, 128]]
    nothing = to_rgb(Image.fromarray(np.full((2, 2), np.nan, np.float32)), background=(0, 0, 0))
    assert np.asarray(nothing).max() == 0


@pytest.mark.parametrize("name", ["rgba.png", "rgba.webp", "rgba.tif", "la.png", "palette-alphas.png"])
@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (10, 200, 30)])
def test_alpha_is_laid_over_the_background(name: str, background: tuple[int, int, int]) -> None:
    rgba = np.asarray(opened(GOOD[name][0]).convert("RGBA")).astype(np.float64)
    alpha = rgba[..., 3:] / 255
    expected = rgba[..., :3] * alpha + np.array(background) * (1 - alpha)
    assert np.abs(rgb(name, background=background) - expected).max() <= 1


def test_one_transparent_colour() -> None:
    for name, mask in (
        ("palette-transparent.png", np.asarray(opened(GOOD["palette-transparent.png"][0])) == 3),
        (
            "palette-transparent.gif",
            np.asarray(opened(GOOD["palette-transparent.gif"][0]).convert("RGBA"))[..., 3] == 0,
        ),
        ("l-trns.png", np.asarray(opened(GOOD["l-trns.png"][0])) == 7),
    ):
        assert mask.any() and not mask.all()
        red = rgb(name, background=(255, 0, 0))
        assert (red[mask] == (255, 0, 0)).all(), name
        assert np.array_equal(red[~mask], rgb(name)[~mask]), name


def test_a_transparent_colour_of_16_bits() -> None:
    deep = image_bytes(Image.fromarray(ramp("uint16", 0, 65535)), kind="PNG", transparency=0)
    image = np.asarray(decode_rgb(deep, DecodeOptions(background=(255, 0, 0)))[0])
    assert image[0, 0].tolist() == [255, 0, 0] and image[0, 1].tolist() == [0, 0, 0]


def test_premultiplied_grey() -> None:
    image = Image.merge("LA", [Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 128)]).convert("La")
    assert to_rgb(image, background=(0, 0, 0)).getpixel((0, 0)) == pytest.approx((50, 50, 50), abs=1)


def test_lab() -> None:
    # L* 53.2, a* 80.1, b* 67.2 is sRGB red; Pillow holds a* and b* with 128 added.
    lab = np.array([[[136, 208, 195]]], np.uint8)
    image = Image.merge("LAB", [Image.fromarray(lab[..., band]) for band in range(3)])
    red = to_rgb(image, background=(0, 0, 0)).getpixel((0, 0))
    assert np.abs(np.array(red) - (255, 0, 0)).max() <= 12  # its white is D50's


@pytest.mark.parametrize("name", ["animated.gif", "animated.webp", "animated.png", "pages.tif", "mpo.jpg"])
def test_the_first_frame(name: str) -> None:
    error = np.abs(rgb(name).astype(int) - np.asarray(make_image(1)).astype(int)).mean()
    assert error < 6  # of GIF's palette, of JPEG; another frame differs by 60


def test_truncated_files_are_kept_where_asked_and_only_there() -> None:
    picture = np.asarray(make_image(8, (200, 150))).astype(int)
    for name in ("half.jpg", "half.png", "half.bmp", "half.tif", "half.gif"):
        image, info = decode_rgb(BROKEN[name][0], DecodeOptions(allow_truncated=True))
        assert (info.width, info.height) == (200, 150)
        rows = slice(-40, None) if name == "half.bmp" else slice(0, 40)  # BMP begins at the bottom
        assert np.abs(np.asarray(image)[rows].astype(int) - picture[rows]).mean() < 8, name
    whole = decode_rgb(BROKEN["no-end.jpg"][0], DecodeOptions(allow_truncated=True))[0]
    assert np.abs(np.asarray(whole).astype(int) - picture).mean() < 3
    for name in ("half.webp", "header-only.jpg", "header-only.png", "half-lzw.tif"):
        assert failure(BROKEN[name][0], allow_truncated=True).reason is Reason.TRUNCATED
    turned = with_orientation(6, "TIFF", size=(200, 150))
    assert decode_rgb(turned[:-30_000], DecodeOptions(allow_truncated=True))[0].size == (150, 200)


def test_truncation_is_a_matter_of_the_call_in_threads_too() -> None:
    names = ["half.jpg", "half-progressive.jpg", "half.png", "half.gif", "half.tif"] * 20
    strict, lax = DecodeOptions(), DecodeOptions(allow_truncated=True)

    def outcome(job: tuple[str, DecodeOptions]) -> object:
        try:
            return decode_rgb(BROKEN[job[0]][0], job[1])[1].phash
        except ImageError as error:
            return error.reason

    jobs = [(name, options) for name in names for options in (strict, lax)]
    alone = {(name, options): outcome((name, options)) for name, options in set(jobs)}
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(outcome, jobs)) == [alone[job] for job in jobs]
    assert {alone[name, strict] for name in names} == {Reason.TRUNCATED}
    assert all(isinstance(alone[name, lax], str) for name in names)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_limits() -> None:
    data = GOOD["rgb.png"][0]
    pixels = SIZE[0] * SIZE[1]
    assert decode_rgb(data, DecodeOptions(max_pixels=pixels, max_bytes=len(data)))[0].size == SIZE
    assert failure(data, max_pixels=pixels - 1).message == "48 x 40 is more than 1919 pixels"
    assert failure(data, max_pixels=pixels - 1).reason is Reason.TOO_MANY_PIXELS
    assert failure(data, max_bytes=len(data) - 1).reason is Reason.TOO_MANY_BYTES
    with pytest.raises(RequestError, match="max_pixels is 0"):
        DecodeOptions(max_pixels=0)


def test_the_pixel_limit_is_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_rgb(GOOD["rgb.jpg"][0], DecodeOptions())[0].size == SIZE
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert failure(huge_png(), max_pixels=10**6).reason is Reason.TOO_MANY_PIXELS


def test_warnings_of_pillow_neither_leak_nor_fail() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        decode_rgb(GOOD["bad-exif.jpg"][0], DecodeOptions())
        assert seen == []
        before = list(warnings.filters)
        opened(GOOD["bad-exif.jpg"][0]).getexif()
        assert warnings.filters == before
    assert len(seen) == 1  # without us Pillow does warn of this file


def test_memory_errors_and_the_unforeseen_are_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, message in ((MemoryError(), "out of memory"), (RuntimeError("odd at 0x7f0011223344"), "odd")):

        def raising(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("clip_transforms.images.to_rgb", raising)
        with pytest.raises(ImageError) as caught:
            decode_rgb(GOOD["rgb.jpg"][0], DecodeOptions())
        monkeypatch.undo()
        assert caught.value.reason is Reason.DECODE_ERROR and message in caught.value.message
        assert "0x7f" not in caught.value.message


def test_random_damage_raises_nothing_else() -> None:
    rng = np.random.default_rng(0)
    names = [
        "rgb.jpg",
        "progressive.jpg",
        "rgb.png",
        "palette-alphas.png",
        "animated.gif",
        "lzw.tif",
        "rgba.webp",
    ]
    outcomes = set()
    for name in [*names, "i16-big.tif", "rgb.bmp", "ycbcr.tif", "bilevel.tif"] * 25:
        damaged = bytearray(GOOD[name][0])
        for place in rng.integers(0, len(damaged), 6):
            damaged[place] = rng.integers(256)
        for options in (
            DecodeOptions(max_pixels=10**6),
            DecodeOptions(max_pixels=10**6, allow_truncated=True),
        ):
            try:
                outcomes.add(decode_rgb(bytes(damaged), options)[0].mode)
            except ImageError as error:
                outcomes.add(error.reason)
    assert {"RGB", Reason.DECODE_ERROR, Reason.TRUNCATED} <= outcomes


def test_background() -> None:
    assert parse_background("#0A141e") == (10, 20, 30)
    for text in ("", "nocolour", "#12345", "#11223344"):
        with pytest.raises(RequestError, match="is not a colour"):
            parse_background(text)


def test_clean_messages() -> None:
    assert clean("a\n <_io.BytesIO object at 0x7fc2859c7ec0> b\x07") == "a an object b?"
    assert len(clean("x" * 1000)) == 200


def test_openers_with_a_signature_come_first() -> None:
    image, name = open_image(GOOD["rgb.jpg"][0], max_pixels=10**6)
    assert (name, image.format, image.mode) == ("JPEG", "JPEG", "RGB")


# --- to_pixels -------------------------------------------------------------------------------------------

SIZES = [
    (48, 40),
    (40, 48),
    (224, 224),
    (225, 223),
    (500, 333),
    (37, 301),
    (3, 2),
    (1, 1),
    (1, 9),
    (640, 32),
    (16, 24),
]


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("target", [(24, 24), (224, 224), (24, 16), (15, 32)])
def test_to_pixels_equals_open_clips_transform(
    mode: str, interpolation: str, target: tuple[int, int]
) -> None:
    from open_clip.transform import image_transform
    from torchvision.transforms import Normalize, ToTensor

    for number, size in enumerate(SIZES):
        image = make_image(number, size)
        for fill in (0, 127) if mode == "longest" else (0,):
            theirs = image_transform(
                target,
                False,
                mean=MEAN,
                std=STD,
                resize_mode=mode,
                interpolation=interpolation,
                fill_color=fill,
            )
            theirs.transforms = [t for t in theirs.transforms if not isinstance(t, (ToTensor, Normalize))]
            ours = to_pixels(
                image, preprocess(*target, resize_mode=mode, interpolation=interpolation, fill=fill)
            )
            try:
                expected = np.asarray(theirs(image))
            except ValueError:  # a side that rounds to nothing
                assert mode == "longest" and max(size) > 10 * min(size)
                continue
            assert ours.dtype == np.uint8 and ours.flags.writeable
            assert np.array_equal(ours, expected), (size, fill)


@pytest.mark.parametrize("interpolation", ["lanczos", "nearest"])
def test_the_other_interpolations_are_pillows(interpolation: str) -> None:
    image = make_image(1, (90, 60))
    expected = image.resize((24, 24), Image.Resampling[interpolation.upper()])
    ours = to_pixels(image, preprocess(24, 24, resize_mode="squash", interpolation=interpolation))
    assert np.array_equal(ours, np.asarray(expected))


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_thin_picture_costs_no_memory(size: tuple[int, int]) -> None:
    thin = to_pixels(make_image(3, size), preprocess(224, 224))
    assert thin.shape == (224, 224, 3)


def test_cropping_while_resizing_is_the_same_within_1(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ((1, 300), (400, 3), (900, 500)):
        image = make_image(4, size)
        exact = to_pixels(image, preprocess(64, 64))
        monkeypatch.setattr("clip_transforms.pixels._MOST_PIXELS", 0)
        monkeypatch.setattr("clip_transforms.pixels._pad_and_crop", None)  # it must take the other way
        near = to_pixels(image, preprocess(64, 64)) if size != (900, 500) else exact
        monkeypatch.undo()
        assert np.abs(near.astype(int) - exact).max() <= 1, size


# --- draft and phash -------------------------------------------------------------------------------------


def large_jpeg(size: tuple[int, int] = (1603, 1211), orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image_bytes(make_image(5, size), quality=90, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_draft_keeps_size_geometry_and_pixels(orientation: int) -> None:
    data = large_jpeg(orientation=orientation)
    wanted = preprocess(64, 64)
    exact, whole = decode_to_pixels(data, DecodeOptions(draft=False), wanted)
    drafted, info = decode_to_pixels(data, DecodeOptions(), wanted)
    assert (info.width, info.height) == (whole.width, whole.height)
    assert (info.width, info.height) == ((1603, 1211) if orientation < 5 else (1211, 1603))
    assert not np.array_equal(drafted, exact)  # it was scaled
    assert np.abs(drafted.astype(int) - exact).max() <= 3
    assert (
        bin(int(info.phash, 16) ^ int(whole.phash, 16)).count("1") <= 4
    )  # of a picture so smooth that half of them stand for nothing


def test_draft_scales_only_above_the_factor() -> None:
    side = 32 * DRAFT_FACTOR
    for width, scaled in ((2 * side - 1, False), (2 * side, True)):
        data = image_bytes(make_image(5, (width, 2 * side)))
        options = DecodeOptions()
        image, info = decode_rgb(data, options, draft_size=(side, side))
        assert (image.size != (width, 2 * side)) is scaled
        assert (info.width, info.height) == (width, 2 * side)
        pixels = decode_to_pixels(data, options, preprocess(32, 32))[0]
        assert np.array_equal(pixels, to_pixels(opened(data), preprocess(32, 32))) is not scaled


def test_without_draft_pixels_are_exact() -> None:
    data = large_jpeg()
    expected = to_pixels(opened(data).convert("RGB"), preprocess(64, 64))
    assert np.array_equal(decode_to_pixels(data, DecodeOptions(draft=False), preprocess(64, 64))[0], expected)
    nearest = preprocess(64, 64, interpolation="nearest")
    expected = to_pixels(opened(data), nearest)
    assert np.array_equal(decode_to_pixels(data, DecodeOptions(), nearest)[0], expected)
    assert decode_rgb(data, DecodeOptions(draft=False), draft_size=(10, 10))[0].size == (1603, 1211)


def test_draft_of_a_truncated_file() -> None:
    data = large_jpeg()
    options = DecodeOptions(allow_truncated=True)
    image, info = decode_rgb(data[: len(data) // 2], options, draft_size=(200, 200))
    assert (info.width, info.height) == (1603, 1211) and image.size == (401, 303)


def test_phash_is_the_published_one() -> None:
    fft = pytest.importorskip("scipy.fftpack")
    for seed in range(30):
        image = make_image(seed, (200 + seed, 150))
        grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS))
        low = fft.dct(fft.dct(grey, axis=0), axis=1)[:8, :8]
        bits = "".join("1" if bit else "0" for bit in (low > np.median(low)).flatten())
        assert phash(image) == f"{int(bits, 2):016x}"
        larger = image.resize((800 + seed, 600), Image.Resampling.NEAREST)
        assert bin(int(phash(larger), 16) ^ int(bits, 2)).count("1") <= 4


def test_phash_tells_pictures_apart() -> None:
    first, second = (int(phash(make_image(seed, (300, 200))), 16) for seed in (1, 2))
    smaller = int(phash(make_image(1, (300, 200)).resize((150, 100))), 16)
    assert bin(first ^ second).count("1") > 16
    assert bin(first ^ smaller).count("1") <= 4


def test_threads_give_what_one_thread_gives() -> None:
    files = [data for data, _ in GOOD.values()] * 3

    def decoded(data: bytes) -> tuple[bytes, str]:
        image, info = decode_rgb(data, DecodeOptions())
        return image.tobytes(), info.phash

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(decoded, files)) == [decoded(data) for data in files]


def test_an_icon_larger_than_it_says() -> None:
    small = io.BytesIO()
    make_image(1, (16, 16)).save(small, "ICO", sizes=[(16, 16)])
    inner = image_bytes(make_image(1, (300, 300)), kind="PNG")
    place = small.getvalue().index(b"\x89PNG")
    head = bytearray(small.getvalue()[:place])
    head[14:18] = len(inner).to_bytes(4, "little")
    assert failure(bytes(head) + inner, max_pixels=1000).reason is Reason.TOO_MANY_PIXELS

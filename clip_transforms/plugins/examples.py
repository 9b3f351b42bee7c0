"""What RunInference and MLTransform take as an image besides urls: bytes, arrays and pictures in memory."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from PIL import Image

from clip_transforms.elements import Failure, ImageRef, Reason, RequestError, Stage
from clip_transforms.transforms.elements import as_image

_EXIF_ORIENTATION = 0x0112


def as_example(example: object) -> ImageRef | Failure:
    """What an example asks to be embedded; one that is no image is a Failure, so that its batch goes on.

    >>> as_example(np.zeros((2, 2, 3), np.float32)).message
    'an array of float32 [2, 2, 3], expected uint8 [H, W], [H, W, 3] or [H, W, 4]'
    >>> as_example(0.5).message
    'an image is an ImageRef, a url, (key, bytes) or (key, url) with a text as key; got float'
    """
    if isinstance(example, bytes):
        return _payload("bytes", example)
    if isinstance(example, Image.Image):
        return _picture(example)
    if not isinstance(example, np.ndarray):
        try:
            return as_image(example)
        except RequestError as error:
            return _failure(type(example).__name__, Reason.NOT_AN_IMAGE, str(error))
    shape = example.shape
    if example.dtype == np.uint8 and (len(shape) == 2 or shape[2:] in ((3,), (4,))) and 0 not in shape:
        return _picture(Image.fromarray(example))
    expected = "expected uint8 [H, W], [H, W, 3] or [H, W, 4]"
    return _failure("array", Reason.NOT_AN_IMAGE, f"an array of {example.dtype} {list(shape)}, {expected}")


def _failure(name: str, reason: Reason, message: str) -> Failure:
    return Failure(image_id=name, uri=name, stage=Stage.DECODE, reason=reason, message=message)


def _picture(image: Image.Image) -> ImageRef | Failure:
    """A picture in memory, as an uncompressed TIFF: it goes the way of all others, with the same rules."""
    exif, buffer = Image.Exif(), io.BytesIO()
    try:
        if orientation := image.getexif().get(_EXIF_ORIENTATION):
            exif[_EXIF_ORIENTATION] = orientation
        image.save(buffer, "TIFF", exif=exif, compression=None)
    except Exception as error:  # noqa: BLE001  a lazily opened picture fails here for any reason
        told = f"{type(error).__name__}: a {image.mode} picture of {image.width} x {image.height}"
        return _failure("picture", Reason.DECODE_ERROR, told)
    return _payload("array", buffer.getvalue())


def _payload(kind: str, data: bytes) -> ImageRef:
    """An image without a name: it is called by its content."""
    key = f"{kind}:{hashlib.blake2b(data, digest_size=16).hexdigest()}"
    return ImageRef(image_id=key, uri=key, url="", payload=data)


def no_text(found: object) -> Failure:
    """The failure of an example that should be a text."""
    return Failure(
        image_id="text",
        uri="text",
        stage=Stage.ENCODE,
        reason=Reason.ENCODE_ERROR,
        message=f"expected a text, got {type(found).__name__}",
    )


def size_of(example: object) -> int:
    """Bytes of an example, about."""
    if isinstance(example, np.ndarray):
        return example.nbytes
    if isinstance(example, (bytes, str)):
        return len(example)
    if isinstance(example, Image.Image):
        return example.width * example.height * len(example.getbands())
    if isinstance(example, ImageRef):
        return len(example.payload or b"")
    return sum(size_of(part) for part in example) if isinstance(example, tuple) else 0

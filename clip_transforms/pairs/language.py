"""The language of captions, by py3langid: a naive Bayes model over byte n-grams that comes with its package."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clip_transforms.elements import RequestError

#: Languages that captions are told apart by, unless a rule names others. The model knows 140, but a caption of four
#: words is often nearer to a small language than to its own: fewer candidates, fewer such mistakes.
COMMON = (
    *(
        "ar",
        "bg",
        "bn",
        "ca",
        "cs",
        "da",
        "de",
        "el",
        "en",
        "es",
        "et",
        "fa",
        "fi",
        "fr",
        "he",
        "hi",
        "hr",
        "hu",
    ),
    *(
        "id",
        "it",
        "ja",
        "ko",
        "lt",
        "lv",
        "ms",
        "nl",
        "no",
        "pl",
        "pt",
        "ro",
        "ru",
        "sk",
        "sl",
        "sr",
        "sv",
        "ta",
    ),
    *("te", "th", "tr", "uk", "ur", "vi", "zh"),
)
_MEND = "pip install 'beamclip[filter]', on workers too"
_models: dict[tuple[str, ...], Any] = {}
_lock = threading.Lock()


def detect(
    captions: Sequence[str | None], *, among: Sequence[str] = COMMON
) -> tuple[list[str | None], npt.NDArray[np.float64]]:
    """The likeliest language of each caption (ISO 639-1) and its probability; None and NaN without a text.

    among: the languages to choose from. Raises RequestError where py3langid is missing or does not know one.
    """
    model = _model(tuple(among))
    codes: list[str | None] = []
    chances = np.full(len(captions), np.nan)
    for place, caption in enumerate(captions):
        text = " ".join(caption.split()) if caption else ""
        if not text:
            codes.append(None)
            continue
        code, chance = model.classify(text)
        codes.append(str(code))
        chances[place] = float(chance)
    return codes, chances


def check_languages(codes: Sequence[str]) -> None:
    """Raise RequestError where the detector is missing or does not know a language."""
    known = _model(()).labels
    strange = next((code for code in codes if code not in known), None)
    if strange is not None:
        raise RequestError(
            f"the language {strange!r} is not known; expected two-letter codes of ISO 639-1 such as en, de, zh"
        )


def _model(among: tuple[str, ...]) -> Any:
    if among not in _models:
        with _lock:
            if among not in _models:
                _models[among] = _load(among)
    return _models[among]


def _load(among: tuple[str, ...]) -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise RequestError(f"the rule `language` needs py3langid; {_MEND}") from error
    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if among:
        model.set_languages(list(among))
    return model

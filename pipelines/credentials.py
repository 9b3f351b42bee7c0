"""Whether this machine has credentials for the stores that a request names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping


def missing_credentials(urls: Iterable[str], options: Mapping[str, object]) -> str | None:
    """Why the stores of these urls cannot be asked from here; None where they can.

    >>> missing_credentials(["/data/photos", "gs://bucket/run"], {"token": "anon"}) is None
    True
    """
    schemes = {url.split("://", 1)[0] for url in urls if "://" in url}
    if options.get("anon") or options.get("token") == "anon" or options.get("endpoint_url"):
        return None
    if schemes & {"gs", "gcs"}:
        return _google()
    return _amazon() if schemes & {"s3", "s3a"} else None


def _google() -> str | None:
    # Elsewhere than on Google's machines nobody answers for their metadata server: that is known in a second.
    os.environ.setdefault("GCE_METADATA_TIMEOUT", "1")
    os.environ.setdefault("GCE_METADATA_DETECT_RETRIES", "1")
    try:
        import google.auth
        import google.auth.exceptions
    except ImportError:
        return "google-auth is not installed here (pip install 'beamclip[gcs]')"
    try:
        google.auth.default()
    except google.auth.exceptions.DefaultCredentialsError:
        return "there are no Google credentials here (gcloud auth application-default login)"
    return None


def _amazon() -> str | None:
    try:
        import botocore.session
    except ImportError:
        return "botocore is not installed here (pip install 'beamclip[s3]')"
    if botocore.session.get_session().get_credentials() is None:
        return "there are no AWS credentials here (aws configure)"
    return None

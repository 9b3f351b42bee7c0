"""A whole job against a store whose requests fail at random, with every repeated request accounted for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import tenacity

from clip_transforms import client_options, fetch, retries
from clip_transforms.storage import Store
from tests.flaky_proxy import FlakyProxy, RandomFaults
from tests.helpers import image_bytes, make_image
from tests.retry_counts import counted
from tests.runs import beamclip
from tests.servers import Server

SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Told:
    """What came of it."""

    code: int
    requests: int  # that the proxy saw
    failed: int  # that it failed
    by_fault: Mapping[str, int]
    again: int  # of these, made again, as the proxy saw it
    lost: Sequence[str]  # of these, not made again
    counts: Mapping[str, int]  # repeats that the job made, by layer


def fill(server: Server, count: int, folder: str = "images") -> None:
    """Images in a folder of the bucket."""
    store = Store(f"{server.url}/{folder}", server.storage_options)
    for number in range(count):
        store.write(f"image{number:05d}.jpg", image_bytes(make_image(number)))


def faulty_job(proxy: FlakyProxy, args: Sequence[str], *, seed: int, quick: bool, patience_s: float) -> Told:
    """Run `beamclip ...` in this process, 5 % of its requests failing.

    quick: retries do not wait, and one request alone meets with silence. patience_s: after which a silent server
    is given up, instead of 60 and 15 s; a machine that is slower than that makes repeats of its own.
    """
    faults = proxy.random = RandomFaults(SHARE, seed=seed, silences=1 if quick else 10**9)
    proxy.silence_s = 3 * patience_s
    impatient = {"config_kwargs": {"read_timeout": patience_s}} if proxy.server.url.startswith("s3") else {}
    options = [f"--storage-option={name}={json.dumps(value)}" for name, value in impatient.items()]
    with pytest.MonkeyPatch.context() as patch, counted() as counts:
        patch.setattr(client_options, "_SILENCE_S", patience_s)
        if quick:
            _hurry(patch)
        code = beamclip(*args, *options, "--timeout", 2 * patience_s)
    proxy.random = None
    return Told(
        code=code,
        requests=sum(faults.asked.values()),
        failed=sum(faults.failed.values()),
        by_fault={fault: count for fault, count in sorted(faults.failed.items()) if count},
        again=faults.again,
        lost=[name for name, count in faults.waiting.items() if count],
        counts=dict(counts),
    )


def _hurry(patch: pytest.MonkeyPatch) -> None:
    sleep = asyncio.sleep

    async def short(delay: float, result: object = None) -> object:
        return await sleep(min(delay, 0.001), result)

    patch.setattr(asyncio, "sleep", short)
    patch.setattr(retries, "RETRY_WAIT", tenacity.wait_none())
    patch.setattr(fetch, "_BACKOFF", tenacity.wait_none())

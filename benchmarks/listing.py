"""Time and memory of listing many objects: from a real S3 server, and from stores that answer from nothing.

    python -m benchmarks.listing                          # 10,500,000 objects from each fake store
    python -m benchmarks.listing --server 1000000         # and so many on moto's S3 server, and their plan

Each line is a process of its own. Resident memory is its peak, less what it had before; CPU is its own, without the
server's.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clip_transforms.filesystems import open_filesystem
from clip_transforms.listing_pages import list_entries
from clip_transforms.plan import write_extension
from clip_transforms.sources import SourceOptions, scan
from clip_transforms.storage import Store
from tests.fake_pages import FakeGcs, FakeS3
from tests.servers import free_port, running

MOTO = Path(__file__).parent.parent / ".cache" / "moto" / "bin" / "python"
FAKES = {"gs": FakeGcs, "s3": FakeS3}
#: Fills moto's memory directly, since a put of each object would take hours, gives it pages from sorted names, since
#: moto sorts the whole bucket for each page, and serves it over HTTP.
SERVE = """
import bisect, copy, sys, time
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.s3.models import S3Backend, s3_backends
store = s3_backends["123456789012"]["aws"]
bucket = store.create_bucket("bucket", "us-east-1")
first = store.put_object("bucket", "images/first.jpg", b"x")
del bucket.keys["images/first.jpg"]
names = [f"images/{number:09d}.jpg" for number in range(int(sys.argv[1]))]
for name in names:
    key = copy.copy(first)
    key.name = name
    bucket.keys[name] = key
def page(self, bucket, prefix, delimiter, continuation_token, start_after, max_keys):
    assert prefix == "images/" and not delimiter and not start_after, (prefix, delimiter, start_after)
    start = bisect.bisect_right(names, continuation_token or "")
    found = names[start : start + max_keys]
    more = start + max_keys < len(names)
    return [bucket.keys[name] for name in found], more, found[-1] if more else None
S3Backend.list_objects_v2 = page
ThreadedMotoServer(ip_address="127.0.0.1", port=int(sys.argv[2])).start()
time.sleep(1e6)
"""


def fake(scheme: str, count: int) -> int:
    """Entries of a fake store."""
    return sum(1 for _ in list_entries(FAKES[scheme](count), "bucket/images"))


def listed(endpoint: str) -> int:
    """Entries of the server's bucket."""
    filesystem, path = open_filesystem("s3://bucket/images", _options(endpoint))
    return sum(1 for _ in list_entries(filesystem, path))


def planned(endpoint: str) -> int:
    """Images in a plan over the server's bucket, written to a local folder."""
    items = scan(["s3://bucket/images/*.jpg"], SourceOptions(storage_options=_options(endpoint)))
    with tempfile.TemporaryDirectory() as folder:
        about = {"name": "0000", "run_id": "benchmark", "inputs": (), "config": {}, "created_at": ""}
        extension = write_extension(Store(folder), items, unit_size=None, **about)  # type: ignore[arg-type]
    return extension.rows or 0


def _options(endpoint: str) -> dict[str, object]:
    region = {"region_name": "us-east-1"}
    return {"endpoint_url": endpoint, "key": "test", "secret": "test", "client_kwargs": region}


def measure(what: str, count: Callable[[], int]) -> None:
    """Print one line: what was counted, in what time and memory."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    found = count()
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    grown, peak = (after.ru_maxrss - before.ru_maxrss) / 1024, after.ru_maxrss / 1024
    print(f"{what:<22}{found:>12,}{seconds:>8.0f}{busy:>8.0f}{peak:>10.0f}{grown:>10.1f}", flush=True)


@contextmanager
def server(count: int) -> Iterator[str]:
    """moto's S3 server with a full bucket; its endpoint."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with running([str(MOTO), "-c", SERVE, str(count), str(port)], f"{endpoint}/moto-api/", wait_s=1800):
        yield endpoint


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fake", type=int, default=10_500_000, help="objects of each fake store; 0: none")
    parser.add_argument("--server", type=int, default=0, help="objects on the server")
    parser.add_argument("--line", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.line:
        kind, where = args.line
        if kind in FAKES:
            measure(f"{kind}:// from nothing", lambda: fake(kind, args.fake))
            return
        measure(f"s3:// server, {kind}", lambda: {"list": listed, "plan": planned}[kind](where))
        return
    print(f"{'':<22}{'objects':>12}{'s':>8}{'CPU s':>8}{'peak MiB':>10}{'more MiB':>10}")
    command = [sys.executable, "-m", "benchmarks.listing", "--fake", str(args.fake)]
    for scheme in FAKES if args.fake else ():
        subprocess.run([*command, "--line", scheme, ""], check=True, env=dict(os.environ))
    if args.server:
        with server(args.server) as endpoint:
            for kind in ("list", "plan"):
                subprocess.run([*command, "--line", kind, endpoint], check=True)


if __name__ == "__main__":
    main()

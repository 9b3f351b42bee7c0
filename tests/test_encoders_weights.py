"""Fetching a model's files: once, whole, from any store; and what kinds of checkpoints are refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save_file

from clip_transforms.elements import RequestError
from clip_transforms.encoders.checkpoints import checkpoint_kind, parse_config, pick_weights
from clip_transforms.encoders.hub import hub_file
from clip_transforms.encoders.weights import cache_dir, fetch, fetch_text, list_folder, shown

DATA = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store() -> Iterator[str]:
    folder = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").pipe_file(f"{folder}/w.safetensors", DATA)
    yield folder
    fsspec.filesystem("memory").rm(folder, recursive=True)


def test_a_file_of_a_store_is_fetched_once(store: str, cache: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    first = fetch(f"{store}/w.safetensors", progress=lambda *step: steps.append(step))
    second = fetch(f"{store}/w.safetensors", progress=lambda *step: steps.append(step))
    assert first.path.read_bytes() == DATA
    assert first.path.is_relative_to(cache)
    assert (first.path, first.sha256, first.fetched) == (second.path, SHA256, True)
    assert not second.fetched
    assert steps == [(len(DATA), len(DATA))]


def test_a_changed_object_is_fetched_anew(store: str) -> None:
    first = fetch(f"{store}/w.safetensors")
    fsspec.filesystem("memory").pipe_file(f"{store}/w.safetensors", DATA[::-1])  # of the same size
    second = fetch(f"{store}/w.safetensors")
    assert first.sha256 == SHA256
    assert second.sha256 == hashlib.sha256(DATA[::-1]).hexdigest()
    assert first.path.read_bytes() == DATA


def test_a_copy_that_lost_bytes_and_a_dead_processs_part_are_replaced(store: str) -> None:
    path = fetch(f"{store}/w.safetensors").path
    path.write_bytes(DATA[:10])
    path.with_name(f"{path.name}.part").write_bytes(b"half a file")
    again = fetch(f"{store}/w.safetensors")
    assert (again.path, again.fetched) == (path, True)
    assert path.read_bytes() == DATA
    assert not list(path.parent.glob("*.part"))


def test_many_threads_download_once(store: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(lambda _: fetch(f"{store}/w.safetensors"), range(8)))
    assert sorted(file.fetched for file in files) == [False] * 7 + [True]
    assert {file.sha256 for file in files} == {SHA256}


def test_a_killed_process_leaves_no_lock(store: str) -> None:
    path = fetch(f"{store}/w.safetensors").path
    path.unlink()
    take = "lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    command = [sys.executable, "-c", f"import filelock, sys; {take}", f"{path}.lock"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdin is not None
    process.stdout.readline()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fetch, f"{store}/w.safetensors")
        with pytest.raises(StillRunning):
            waiting.result(timeout=0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert waiting.result(timeout=30).fetched
    process.stdin.close()
    process.stdout.close()


class ShortFileSystem(MemoryFileSystem):
    """Reports one byte more than it gives."""

    protocol = "shortmemory"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("shortmemory://", "memory://"))

    def info(self, path: str, **options: object) -> dict[str, object]:
        found = super().info(path, **options)
        return {**found, "size": found["size"] + 1}


def test_a_short_download_and_a_wrong_hash_leave_nothing(store: str, cache: Path) -> None:
    fsspec.register_implementation("shortmemory", ShortFileSystem, clobber=True)
    with pytest.raises(RequestError, match=f"ended after {len(DATA)} of {len(DATA) + 1} bytes"):
        fetch(store.replace("memory://", "shortmemory://") + "/w.safetensors")
    with pytest.raises(RequestError, match="is not the file it should be"):
        fetch(f"{store}/w.safetensors", expected_sha256="00")
    assert [path.suffix for path in (cache / "weights").iterdir() if path.is_file()] == [".lock"] * 2
    assert fetch(f"{store}/w.safetensors", expected_sha256=SHA256[:8]).sha256 == SHA256


def test_a_local_file_is_used_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a b#1.pt"
    path.write_bytes(DATA)
    for url in (str(path), f"file://{path}"):
        file = fetch(url)
        assert (file.path, file.sha256, file.fetched) == (path, SHA256, False)
    assert not cache_dir().exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nothing/here.bin", "there is no memory://nothing/here.bin"),
        ("/no/such/file", "there is no /no/such/file"),
        ("/", "is a folder"),
        ("nosuchscheme://a/b", "nosuchscheme"),
        (
            "http://user:secret@127.0.0.1:9/w?sig=secret",
            "there is no http://127.0.0.1:9/w, or its host cannot be reached",
        ),
    ],
)
def test_what_cannot_be_fetched(url: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        fetch(url)
    assert "secret" not in str(caught.value)


def test_an_unusable_cache_is_said(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BEAMCLIP_CACHE", str(tmp_path / "file"))
    with pytest.raises(RequestError, match="set BEAMCLIP_CACHE to another"):
        fetch(f"{store}/w.safetensors")


def test_folders_texts_and_shown_urls(store: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file(f"{store}/sub/x.json", b"{}")
    assert list_folder(store) == ["w.safetensors"]
    assert fetch_text(f"{store}/sub/x.json") == "{}"
    with pytest.raises(RequestError, match="not UTF-8"):
        fetch_text(f"{store}/w.safetensors")
    with pytest.raises(RequestError, match="there is no"):
        list_folder(f"{store}/other")
    with pytest.raises(RequestError, match="is a file"):
        list_folder(f"{store}/w.safetensors")
    assert shown("gs://b/a?generation=4") == "gs://b/a"
    assert shown("file:///a?b") == "file:///a?b"


def test_kinds_of_checkpoints(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(2)}
    save_file(tensors, tmp_path / "no-suffix")
    torch.save(tensors, tmp_path / "new.bin")
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    kinds = [checkpoint_kind(tmp_path / name, shown_as=name) for name in ("no-suffix", "new.bin", "old.pt")]
    assert kinds == ["safetensors", "torch", "torch"]


def test_refused_checkpoints(tmp_path: Path) -> None:
    program = tmp_path / "jit.pt"
    with zipfile.ZipFile(program, "w") as archive:  # the members of torch.jit.save that tell it
        archive.writestr("model/data.pkl", pickle.dumps({}))
        archive.writestr("model/code/__torch__.py", "")
        archive.writestr("model/constants.pkl", "")
    with pytest.raises(RequestError, match=r"TorchScript program.*use open_clip:RN50/openai"):
        checkpoint_kind(program, shown_as="x", safetensors_name="open_clip:RN50/openai")
    with pytest.raises(RequestError, match="save its state_dict"):
        checkpoint_kind(program, shown_as="x")
    arrays = tmp_path / "a.npz"
    with zipfile.ZipFile(arrays, "w") as archive:
        archive.writestr("a.npy", "")
    for name, content in (("text", b"hello"), ("empty", b""), ("html", b"<!DOCTYPE html>")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RequestError, match="is no checkpoint"):
            checkpoint_kind(tmp_path / name, shown_as=name)
    with pytest.raises(RequestError, match="is no checkpoint"):
        checkpoint_kind(arrays, shown_as="a.npz")


def test_the_weights_of_a_folder() -> None:
    assert pick_weights(["model.safetensors", "open_clip_pytorch_model.bin"], shown_as="f").endswith(".bin")
    assert pick_weights(["epoch_3.pt", "x.json"], shown_as="f") == "epoch_3.pt"
    for names, found in ((["a.pt", "b.pt"], r"several \(a.pt, b.pt\)"), (["x.json"], "none")):
        with pytest.raises(RequestError, match=found):
            pick_weights(names, shown_as="f")


def test_configurations() -> None:
    flat = {"embed_dim": 4, "vision_cfg": {}, "text_cfg": {}}
    pre = {"mean": [0, 0, 0]}
    assert parse_config(json.dumps({"model_cfg": flat, "preprocess_cfg": pre}), shown_as="m") == (flat, pre)
    assert parse_config(json.dumps({**flat, "preprocess_cfg": pre}), shown_as="m") == (flat, pre)
    for text, message in (
        ("{", "m is not JSON"),
        ("[]", "expected a JSON object"),
        ('{"embed_dim": 4}', "m has no vision_cfg, text_cfg"),
        ('{"model_cfg": 3}', "m has no embed_dim"),
    ):
        with pytest.raises(RequestError, match=message):
            parse_config(text, shown_as="m")


def test_the_hub_is_not_asked_when_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RequestError, match=r"HF_HUB_OFFLINE=1 forbids the download.*models pull"):
        hub_file("some/repo", ["open_clip_config.json"])

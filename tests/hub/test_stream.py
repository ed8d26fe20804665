"""From files to files: each byte is read once, in pieces of any size, with and without the page cache."""

import errno
import os
from collections import Counter

import pico
import pytest
import torch

from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.operators import Upcycle
from lit_recycle.hub import stream, transform, writer
from lit_recycle.hub.grow import grow_folder
from lit_recycle.hub.reader import open_folder
from lit_recycle.hub.writer import move_bytes

GROWTHS = {
    "copied": ([Depth(3)], {}),
    "treated": ([Depth(2), Width(3, noise=0.1)], {}),
    "converted": ([Depth(2), Width(2, noise=0.1)], {"dtype": "bfloat16"}),
}


@pytest.fixture(scope="module", params=["mixtral", "gpt_oss"])
def source(request, tmp_path_factory):
    """Experts in tensors of their own, and all experts in one tensor."""
    folder = tmp_path_factory.mktemp(request.param) / "source"
    pico.build(request.param).save_pretrained(folder)
    return folder


@pytest.fixture
def reads(monkeypatch):
    """How often each byte of a source is read, by file and offset."""
    seen = Counter()

    def move(call, file, view, offset):
        if call is os.preadv:
            name = os.readlink(f"/proc/self/fd/{file}")
            seen.update((name, i) for i in range(offset, offset + len(view)))
        move_bytes(call, file, view, offset)

    monkeypatch.setattr(stream, "move_bytes", move)
    monkeypatch.setattr(transform, "move_bytes", move)
    return seen


def grown(source, destination, growth):
    forms, options = GROWTHS[growth]
    grow_folder(source, destination, *forms, **options)


def body(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("growth", GROWTHS)
def test_every_byte_of_the_source_is_read_once(growth, source, reads, tmp_path):
    grown(source, tmp_path / "grown", growth)
    assert set(reads.values()) == {1} and len(reads) == open_folder(source).nbytes


def test_a_dense_network_is_read_once_for_all_its_experts(reads, tmp_path):
    pico.build("llama").save_pretrained(tmp_path / "dense")
    for name, drop in (("sparse", 0.0), ("dropped", 0.5)):
        reads.clear()
        grow_folder(tmp_path / "dense", tmp_path / name, Upcycle(4, redraw=drop))
        assert set(reads.values()) == {1} and len(reads) == open_folder(tmp_path / "dense").nbytes


@pytest.mark.parametrize("growth", GROWTHS)
def test_neither_pieces_nor_an_older_kernel_change_a_byte(growth, source, tmp_path, monkeypatch):
    grown(source, tmp_path / "a", growth)
    monkeypatch.setattr(stream, "CHUNK", 100)
    monkeypatch.setattr(transform, "CHUNK", 100)
    monkeypatch.setattr(writer, "UNCACHED", 10)
    grown(source, tmp_path / "b", growth)
    monkeypatch.setattr(writer, "RWF_DONTCACHE", 1 << 30)  # a flag that no kernel knows
    grown(source, tmp_path / "c", growth)
    assert body(tmp_path / "a") == body(tmp_path / "b") == body(tmp_path / "c")


def test_as_many_threads_as_before_are_left(source, tmp_path):
    torch.set_num_threads(2)
    try:
        grow_folder(source, tmp_path / "grown", Width(2, noise=0.1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


class Device:
    """A file that takes at most three bytes at a time, with errors by flag."""

    def __init__(self, **errors):
        self.errors, self.calls, self.held = errors, [], bytearray(16)

    def write(self, file, buffers, offset, flags=0):
        self.calls.append((offset, flags))
        if error := self.errors.get("flagged" if flags else "plain"):
            raise error
        done = min(3, len(buffers[0]), len(self.held) - offset)
        self.held[offset : offset + done] = buffers[0][:done]
        return done


def test_short_transfers_go_on_where_they_ended():
    device = Device()
    move_bytes(device.write, 0, memoryview(b"abcdefgh"), 2)
    assert device.held == b"\0\0abcdefgh" + bytes(6) and [offset for offset, _ in device.calls] == [2, 5, 8]


def test_large_transfers_alone_go_past_the_page_cache(monkeypatch):
    monkeypatch.setattr(writer, "UNCACHED", 4)
    device = Device()
    move_bytes(device.write, 0, memoryview(b"abcdefgh"), 0)
    assert [flags for _, flags in device.calls] == [writer.RWF_DONTCACHE, writer.RWF_DONTCACHE, 0]


@pytest.mark.parametrize("refusal", [OSError(errno.EOPNOTSUPP, "no such flag"), NotImplementedError()], ids=repr)
def test_where_the_flag_is_unknown_the_page_cache_is_used(refusal, monkeypatch):
    monkeypatch.setattr(writer, "UNCACHED", 1)
    device = Device(flagged=refusal)
    move_bytes(device.write, 0, memoryview(b"abcdefgh"), 0)
    assert device.held[:8] == b"abcdefgh"


def test_a_full_disk_is_an_error_either_way(monkeypatch):
    monkeypatch.setattr(writer, "UNCACHED", 1)
    full = OSError(errno.ENOSPC, "full")
    with pytest.raises(OSError, match="full"):
        move_bytes(Device(flagged=full, plain=full).write, 0, memoryview(b"abcdefgh"), 0)


def test_a_source_that_ends_early_is_an_error():
    with pytest.raises(OSError, match="became shorter"):
        move_bytes(Device().write, 0, memoryview(b"abcdefgh"), 12)

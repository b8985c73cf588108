"""Files of weights that must be refused: missing, damaged, unsafe, or of another network."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_networks import assert_same_state, build, state_of
from torch import nn

from common.errors import InputError
from common.networks import load_weights
from common.networks.weights import save_weights


def serialize(thing: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def refuse(path: Path, network: nn.Module) -> str:
    """The message with which a file is refused, after the path; the network must keep its weights."""
    before = state_of(network)
    with pytest.raises(InputError) as caught:
        load_weights(network, path)
    assert_same_state(state_of(network), before)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_a_missing_file_says_what_to_do(tmp_path):
    assert "no weights here; train first, or download" in refuse(tmp_path / "model.pt", build())


def test_a_folder_is_no_file(tmp_path):
    assert "no weights here" in refuse(tmp_path, build())


def zip_of_text() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    return buffer.getvalue()


GARBAGE = {
    "empty": b"",
    "zeros": bytes(1000),
    "text": b"hello world\n",
    "JSON": b'{"network_def": {}}\n',
    "web page": b"<!DOCTYPE html><title>404</title>",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "zip": zip_of_text(),
    "start of a zip": b"PK\x03\x04junk",
    "start of a pickle": b"\x80\x02",
    "random bytes": bytes([143, 17, 2, 250, 9, 88, 128, 3]),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_refused(tmp_path, kind):
    path = tmp_path / "model.pt"
    path.write_bytes(GARBAGE[kind])
    assert "expected a PyTorch state dict" in refuse(path, build())


@pytest.mark.parametrize("kept", [0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_refused(tmp_path, kept, zipped):
    path = tmp_path / "model.pt"
    torch.save(build().state_dict(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert "expected a PyTorch state dict" in refuse(path, build())
    path.write_bytes(whole)
    load_weights(build(), path)


def test_a_pickled_network_is_refused_and_not_run(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(serialize(build()))
    assert "expected a PyTorch state dict" in refuse(path, build())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: [1, 2], "expected a state dict, found list"),
        (lambda s: s["head.bias"], "expected a state dict, found Tensor"),
        (lambda s: {}, "expected decoder.0.block.conv1.bias, found no such key"),
        (lambda s: {"state_dict": s}, "expected decoder.0.block.conv1.bias, found no such key"),
        (lambda s: {"epoch": 3, "a_network": s}, "found a_network, expected no such key"),
        (lambda s: {0: s["head.bias"]}, "found 0, expected no such key"),
        (lambda s: s | {"zoo": torch.zeros(1)}, "found zoo, expected no such key"),
        (lambda s: {k: v for k, v in s.items() if k != "head.bias"}, "expected head.bias, found no such key"),
        (lambda s: s | {"head.bias": torch.zeros(7)}, "head.bias: expected shape (3,), found (7,)"),
        (lambda s: s | {"head.bias": torch.zeros(3, 1)}, "head.bias: expected shape (3,), found (3, 1)"),
        (lambda s: s | {"head.bias": [0.0, 0.0, 0.0]}, "head.bias: expected shape (3,), found list"),
    ],
)
def test_what_differs_is_named(tmp_path, change, message):
    path = tmp_path / "model.pt"
    network = build()
    path.write_bytes(serialize(change(dict(network.state_dict()))))
    assert message in refuse(path, network)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"channels": (2, 4)}, "decoder.0.up.weight: expected shape (3, 2, 2, 2), found (4, 2, 2, 2)"),
        ({"out_channels": 2}, "head.bias: expected shape (3,), found (2,)"),
        ({"num_convs": (2, 1)}, "found encoder.0.conv2.bias, expected no such key"),
        ({"norm": "batch"}, "found decoder.0.block.norm.bias, expected no such key"),
        ({"separable": True}, "expected decoder.0.block.conv1.bias, found no such key"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, kwargs, message):
    save_weights(build(**kwargs), tmp_path / "model.pt")
    assert refuse(tmp_path / "model.pt", build()) == f"weights of another network: {message}."

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import InputError
from common.networks import LiteUNet, load_weights
from common.networks.weights import save_weights
from common.pruning import prune_by_magnitude

TINY = {"channels": (2, 3), "num_convs": (1, 1)}


def build(seed: int = 0, **kwargs) -> LiteUNet:
    torch.manual_seed(seed)
    return LiteUNet(**TINY | kwargs)


def state_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_same_state(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def serialize(thing: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


# ---- round trip


@pytest.mark.parametrize("kwargs", [{}, {"norm": "batch"}, {"separable": True, "weight_standardization": True}])
def test_saved_weights_load_into_another_network_of_the_same_arguments(tmp_path, kwargs):
    saved, loaded = build(0, **kwargs), build(1, **kwargs)
    if "norm" in kwargs:
        saved(torch.randn(2, 1, 8, 8))  # moves the running statistics
    before = state_of(saved)
    save_weights(saved, tmp_path / "model.pt")
    assert load_weights(loaded, tmp_path / "model.pt") is loaded
    assert_same_state(state_of(loaded), before)
    assert_same_state(state_of(saved), before)


def test_weights_load_from_a_string_too(tmp_path):
    save_weights(build(), str(tmp_path / "model.pt"))
    load_weights(build(1), str(tmp_path / "model.pt"))


def test_the_file_is_a_flat_state_dict_that_torch_loads_safely(tmp_path):
    network = build(norm="batch")
    save_weights(network, tmp_path / "model.pt")
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    assert type(weights) is dict
    assert_same_state(weights, network.state_dict())
    for tensor in weights.values():
        assert type(tensor) is torch.Tensor and tensor.device.type == "cpu" and not tensor.requires_grad


def test_loading_keeps_the_network_s_mode_and_gradients(tmp_path):
    save_weights(build(), tmp_path / "model.pt")
    network = load_weights(build(1).eval(), tmp_path / "model.pt")
    assert not network.training and all(p.requires_grad for p in network.parameters())


def test_half_precision_weights_load_into_a_network_of_single_precision(tmp_path):
    halves = build(norm="batch").half()
    save_weights(halves, tmp_path / "model.pt")
    loaded = load_weights(build(1, norm="batch"), tmp_path / "model.pt")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, halves.state_dict()[name].to(tensor.dtype)), name
    assert loaded(torch.randn(2, 1, 4, 4)).dtype == torch.float32


# ---- files that must be refused


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


# ---- saving that fails


@pytest.mark.parametrize("old", [None, b"the weights of yesterday"])
def test_nothing_half_written_is_left_when_saving_fails(tmp_path, monkeypatch, old):
    path = tmp_path / "models" / "model.pt"
    if old is not None:
        path.parent.mkdir()
        path.write_bytes(old)
    written = []

    write_bytes = Path.write_bytes

    def write_half_then_fail(file: Path, content: bytes) -> None:
        write_bytes(file, b"half of the wei")
        written.append(file)
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_half_then_fail)
        with pytest.raises(OSError, match=re.escape("No space left on device")):
            save_weights(build(), path)
    assert written and written[0] != path
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == (
        {} if old is None else {"model.pt": old}
    )
    save_weights(build(), path)
    assert [file.name for file in path.parent.iterdir()] == ["model.pt"]
    load_weights(build(1), path)


# ---- size on disk


def zero_half(network: LiteUNet) -> LiteUNet:
    return prune_by_magnitude(network, 0.5)


def test_zeros_make_the_file_smaller_and_it_loads_like_any_other(tmp_path):
    network = build(channels=(16, 24))
    save_weights(network, tmp_path / "dense.pt")
    save_weights(zero_half(network), tmp_path / "sparse.pt")
    assert (tmp_path / "sparse.pt").stat().st_size < 0.75 * (tmp_path / "dense.pt").stat().st_size
    loaded = torch.load(tmp_path / "sparse.pt", weights_only=True)
    assert_same_state(loaded, state_of(zero_half(network)))
    build(1, channels=(16, 24)).load_state_dict(loaded, strict=True)


def test_the_zip_of_a_sparse_file_is_smaller_than_that_of_a_dense_one(tmp_path):
    network = build(channels=(16, 24))
    for name, saved in {"dense": network, "sparse": zero_half(network)}.items():
        save_weights(saved, tmp_path / f"{name}.pt")
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / f"{name}.pt")
    assert (tmp_path / "sparse.zip").stat().st_size < 0.75 * (tmp_path / "dense.zip").stat().st_size


def test_dense_weights_stay_as_torch_writes_them(tmp_path):
    network = build(channels=(16, 24))
    save_weights(network, tmp_path / "model.pt")
    assert_same_state(torch.load(tmp_path / "model.pt", weights_only=True, mmap=True), state_of(network))


@pytest.mark.parametrize("change", [lambda network: network, zero_half])
def test_the_same_weights_give_the_same_bytes(tmp_path, change):
    for name in ("first.pt", "second.pt"):
        save_weights(change(build(channels=(16, 24))), tmp_path / name)
    assert (tmp_path / "first.pt").read_bytes() == (tmp_path / "second.pt").read_bytes()


def test_without_a_path_a_network_stays_as_it_is():
    network = build()
    before = state_of(network)
    assert load_weights(network, None) is network
    assert_same_state(state_of(network), before)

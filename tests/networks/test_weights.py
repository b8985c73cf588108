"""Files of weights: what is saved loads again, whole or not at all, and zeros take less room."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_networks import assert_same_state, build, state_of

from common.compression.zeros import prune_by_magnitude
from common.networks import LiteUNet, load_weights
from common.networks.weights import save_weights

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

"""BatchNorm for training only: inserted, folded, and what the file of weights holds."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from common.networks import LiteUNet, fold_batch_norm, insert_batch_norm

SMALL = {"channels": (4, 6, 8), "num_convs": (1, 2, 2)}
SD_UNET = {
    "separable": True,
    "weight_standardization": True,
    "norm": ("group", {"num_groups": 2}),
    "upsample": "nearest",
    "refine": True,
}
NETWORKS = [{}, {"separable": True}, {"upsample": "nearest", "refine": True}, SD_UNET]


def make_network(**arguments) -> LiteUNet:
    torch.manual_seed(0)
    network = LiteUNet(**SMALL | arguments).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def make_batches() -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    return [{"image": MetaTensor(torch.rand(3, 1, 16, 16))} for _ in range(4)]


def train_a_little(network: nn.Module) -> None:
    """Move parameters and statistics away from where they begin."""
    optimizer = torch.optim.SGD(network.train().parameters(), lr=0.01)
    for batch in make_batches():
        optimizer.zero_grad()
        network(3 * batch["image"].as_tensor() - 1).square().mean().backward()
        optimizer.step()
    network.eval()


@pytest.mark.parametrize("arguments", NETWORKS)
def test_folded_weights_fit_the_plain_network_and_compute_the_same(arguments):
    plain, image = make_network(**arguments), torch.rand(2, 1, 16, 16)
    trained = insert_batch_norm(plain)
    train_a_little(trained)
    folded = fold_batch_norm(trained)
    fresh = LiteUNet(**SMALL | arguments).eval()
    fresh.load_state_dict(folded.state_dict(), strict=True)
    torch.testing.assert_close(fresh(image), trained(image), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fresh(image), plain(image), atol=1e-3)


@pytest.mark.parametrize("arguments", NETWORKS)
def test_a_trained_network_computes_the_same_after_insertion_with_batches(arguments):
    plain, image = make_network(**arguments), torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(
        insert_batch_norm(plain, make_batches(), trained=True).eval()(image), plain(image), rtol=1e-4, atol=1e-4
    )
    # a new network need not: there BatchNorm starts as usual
    assert not torch.allclose(insert_batch_norm(plain)(image), plain(image), atol=1e-2)


def test_plain_weights_that_are_loaded_later_compute_the_same():
    plain, image = make_network(), torch.rand(2, 1, 16, 16)
    inserted = insert_batch_norm(LiteUNet(**SMALL), make_batches())
    # as MONAI's CheckpointLoader does it for MONAI Label
    inserted.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(inserted.eval()(image), plain(image), rtol=1e-4, atol=1e-4)
    # its own state comes back as it is
    train_a_little(inserted)
    again = insert_batch_norm(LiteUNet(**SMALL), make_batches())
    again.load_state_dict(inserted.state_dict())
    assert torch.equal(again.eval()(image), inserted(image))


@pytest.mark.parametrize("batches", [None, make_batches()])
def test_a_missing_weight_is_an_error_all_the_same(batches):
    state = make_network().state_dict()
    del state["head.weight"]
    with pytest.raises(RuntimeError, match="head.weight"):
        insert_batch_norm(LiteUNet(**SMALL), batches).load_state_dict(state)


@pytest.mark.parametrize(("arguments", "number"), [({}, 9), (SD_UNET, 14)])
def test_every_convolution_before_a_relu_gets_one(arguments, number):
    inserted = insert_batch_norm(make_network(**arguments))
    relus = sum(isinstance(module, nn.ReLU) for module in inserted.modules())
    assert sum(isinstance(module, nn.BatchNorm2d) for module in inserted.modules()) == relus == number


def test_a_network_with_batch_norm_of_its_own_is_left_as_it_is():
    network = make_network(norm="batch")
    assert insert_batch_norm(network) is network
    assert fold_batch_norm(network).state_dict().keys() == network.state_dict().keys()


def test_the_given_network_is_not_changed():
    network = make_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inserted = insert_batch_norm(network, make_batches(), trained=True)
    train_a_little(inserted)
    trained = {name: value.clone() for name, value in inserted.state_dict().items()}
    fold_batch_norm(inserted)
    for state, expected in ((network.state_dict(), before), (inserted.state_dict(), trained)):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_statistics_of_metatensors_are_plain_tensors():
    state = fold_batch_norm(insert_batch_norm(make_network(), make_batches(), trained=True)).state_dict()
    assert {type(value) for value in state.values()} == {torch.Tensor}

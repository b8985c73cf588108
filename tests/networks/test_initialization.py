"""How the papers start their networks."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.losses import DiceLoss

from common.errors import InputError
from common.networks import LiteUNet, initialize_as

SMALL = {"channels": (16, 16, 16), "num_convs": (1, 2, 2)}


def get_kernels(network: LiteUNet) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in network.named_parameters() if p.dim() > 2}


def test_keras_starts_uniform_within_glorot_s_limit():
    network = initialize_as(LiteUNet(**SMALL, separable=True), "keras")
    for name, kernel in get_kernels(network).items():
        taps = kernel[0, 0].numel()
        limit = (6 / (taps * (kernel.shape[0] + kernel.shape[1]))) ** 0.5
        assert kernel.abs().max() <= limit and kernel.abs().max() > 0.8 * limit, name
    assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))


def test_from_standard_normal_kernels_pocket_u_net_learns_nothing():
    torch.manual_seed(0)
    image, label = torch.randn(1, 1, 32, 32), torch.randint(0, 3, (1, 1, 32, 32))
    loss_function = DiceLoss(to_onehot_y=True, softmax=True, squared_pred=True)
    steepest = {}
    for scheme in ("house", "keras", "normal"):
        network = initialize_as(LiteUNet(channels=[16] * 5), scheme)
        loss_function(network(image), label).backward()
        steepest[scheme] = max(float(p.grad.abs().max()) for p in network.parameters())
    assert steepest["house"] > 1e-3 and steepest["keras"] > 1e-4 and steepest["normal"] == 0
    assert all(abs(k.std() - 1) < 0.2 for k in get_kernels(network).values() if k.numel() > 500)


def test_the_house_s_own_initialization_stays():
    network = LiteUNet(**SMALL)
    before = copy.deepcopy(network.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in initialize_as(network).state_dict().items())


def test_another_scheme_is_named():
    with pytest.raises(InputError, match="initialization: expected one of house, keras, normal, found zeros."):
        initialize_as(LiteUNet(**SMALL), "zeros")

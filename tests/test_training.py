from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.errors import InputError
from common.networks import LiteUNet
from common.training import BatchNormKeeper, BFloat16Inferer, RunKeeper

BATCHES = [{"image": torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(i)) + 3} for i in range(3)]


def build(norm: str | None = "batch") -> LiteUNet:
    torch.manual_seed(0)
    return LiteUNet(channels=(3, 4), num_convs=(1, 1), norm=norm)


def run(network: nn.Module, epochs: int, interval: int) -> list[list[float]]:
    """The first running mean after every epoch of a run that trains nothing."""
    means = []
    engine = Engine(lambda engine, batch: None)
    BatchNormKeeper(network, BATCHES, torch.device("cpu"), interval).attach(engine)
    norm = network.encoder[0].norm
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: means.append(norm.running_mean.tolist()))
    engine.run(BATCHES, max_epochs=epochs)
    return means


def test_batchnorm_statistics_become_those_of_the_training_slices():
    network = build()
    run(network, 1, 1)
    first, norm = network.encoder[0], network.encoder[0].norm
    before_norm = nn.Sequential(first.conv1, first.relu1)
    outputs = [before_norm(batch["image"]) for batch in BATCHES]
    expected = torch.stack([output.mean(dim=(0, 2, 3)) for output in outputs]).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, expected)
    expected = torch.stack([output.var(dim=(0, 2, 3)) for output in outputs]).mean(dim=0)
    torch.testing.assert_close(norm.running_var, expected)
    assert norm.momentum == 0.1 and network.training


def test_they_are_estimated_every_few_epochs_and_at_the_end():
    untouched = build().encoder[0].norm.running_mean.tolist()
    means = run(build(), 5, 3)
    assert means[0] == means[1] == untouched
    assert means[2] == means[3] != untouched
    assert run(build(), 2, 3)[1] == means[2]


def test_a_network_without_batchnorm_is_left_alone():
    network = build(norm=None)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    engine = Engine(lambda engine, batch: None)
    BatchNormKeeper(network, BATCHES, torch.device("cpu")).attach(engine)
    engine.run(BATCHES, max_epochs=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_only_the_best_or_the_last_weights_can_be_kept(tmp_path):
    with pytest.raises(InputError, match="keep must be 'best' or 'last', got keep='first'"):
        RunKeeper(tmp_path, build(), None, None, None, None, keep="first")


def test_convolutions_run_in_bfloat16_and_output_gradients_and_weights_are_float32():
    network = build()
    dtypes = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    image = torch.randn(2, 1, 32, 32)
    output = BFloat16Inferer()(image, network)
    output.sum().backward()
    assert set(dtypes) == {torch.bfloat16} and output.dtype == torch.float32
    assert all(parameter.dtype == parameter.grad.dtype == torch.float32 for parameter in network.parameters())
    exact = network(image)
    assert not torch.equal(output, exact)
    assert (output - exact).norm() < 0.05 * exact.norm()

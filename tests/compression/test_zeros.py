from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.compression.zeros import (
    GradualPruning,
    SigmaThreshold,
    compute_masks,
    find_prunable,
    measure_sparsity,
    prune_by_magnitude,
    prune_by_sigma,
    schedule_sparsity,
)
from common.errors import InputError
from common.networks import LiteUNet, StdConv2d
from zoo.variants import VARIANTS

NETWORKS = {v.title: v.network for v in VARIANTS} | {"small": {"channels": (3, 5), "num_convs": (1, 2)}}


def build(seed: int = 0, **kwargs) -> LiteUNet:
    torch.manual_seed(seed)
    return LiteUNet(**{"channels": (4, 6), "num_convs": (1, 2)} | kwargs)


def get_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: conv.weight.detach() for name, conv in find_prunable(network).items()}


# ---- what is pruned


@pytest.mark.parametrize("title", ["UNet", "WP-UNet", "SD-UNet"])
def test_kernels_are_pruned_and_nothing_else(title):
    network = LiteUNet(**NETWORKS[title] | {"channels": (32, 32, 32, 32, 32)})
    prunable = {id(conv.weight) for conv in find_prunable(network).values()}
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            is_kernel = isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and parameter is module.weight
            left_alone = name == "head" or isinstance(module, StdConv2d)
            assert (id(parameter) in prunable) == (is_kernel and not left_alone), name
    pruned = prune_by_magnitude(network, 0.9)
    for name, parameter in pruned.named_parameters():
        if id(network.get_parameter(name)) not in prunable:
            assert torch.equal(parameter, network.get_parameter(name))


def test_pruning_gives_a_copy_and_keeps_the_other_weights():
    network = build()
    before = copy.deepcopy(network.state_dict())
    pruned = prune_by_sigma(network, 1.0)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
        changed = pruned.state_dict()[name] != tensor
        assert not pruned.state_dict()[name][changed].any()


# ---- how much is pruned


@pytest.mark.parametrize("amount", [0.0, 0.25, 0.5, 0.9, 0.99])
def test_magnitude_pruning_meets_the_amount_in_every_tensor_and_takes_the_smallest(amount):
    network = build(channels=(8, 8))
    for name, weight in get_weights(prune_by_magnitude(network, amount)).items():
        assert int((weight == 0).sum()) == round(amount * weight.numel())
        original = get_weights(network)[name].abs()
        if amount > 0:
            assert original[weight == 0].max() <= original[weight != 0].min()


def test_among_equal_magnitudes_as_many_go_as_were_asked_for():
    network = build()
    for conv in find_prunable(network).values():
        conv.weight.data.fill_(0.5)
    for layer in measure_sparsity(prune_by_magnitude(network, 0.3)):
        assert layer.zeros == round(0.3 * layer.weights)


@pytest.mark.parametrize(
    "ratio, signed, share",
    [(0.5, False, 0.3829), (0.6745, False, 0.5), (1.0, False, 0.6827), (2.0, False, 0.9545)]
    + [(0.5, True, 0.6915), (1.0, True, 0.8413)],
)
def test_algorithm_2_zeroes_what_gaussian_weights_predict(ratio, signed, share):
    weights = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    mask = SigmaThreshold(ratio, signed).compute_mask(weights, torch.ones_like(weights))
    assert 1 - mask.mean().item() == pytest.approx(share, abs=0.002)


def test_algorithm_2_takes_the_standard_deviation_of_each_tensor():
    network = build(channels=(16, 16))
    scaled = copy.deepcopy(network)
    for factor, conv in enumerate(find_prunable(scaled).values(), start=2):
        conv.weight.data *= factor
    for mask, other in zip(compute_masks(network, "sigma", 1.0).values(), compute_masks(scaled, "sigma", 1.0).values()):
        assert torch.equal(mask, other)


def test_zeros_stay_and_count_when_a_network_is_pruned_again():
    once = prune_by_magnitude(build(), 0.5)
    twice = prune_by_magnitude(once, 0.8)
    for weight, before in zip(get_weights(twice).values(), get_weights(once).values()):
        assert int((weight == 0).sum()) == round(0.8 * weight.numel()) and not weight[before == 0].any()
    less = prune_by_magnitude(once, 0.2)
    assert [layer.zeros for layer in measure_sparsity(less)] == [layer.zeros for layer in measure_sparsity(once)]


@pytest.mark.parametrize(
    "method, amount, signed, words",
    [
        ("magnitude", 1.0, False, r"\[0, 1\), got amount=1.0"),
        ("magnitude", -0.1, False, "got amount=-0.1"),
        ("magnitude", float("nan"), False, "got amount=nan"),
        ("magnitude", 0.5, True, "signed belongs to method 'sigma'"),
        ("sigma", -1.0, False, "0 or more, got amount=-1.0"),
        ("sigma", float("nan"), False, "got amount=nan"),
        ("lottery", 0.5, False, "one of magnitude, sigma, got method='lottery'"),
    ],
)
def test_wrong_arguments_are_named(method, amount, signed, words):
    with pytest.raises(InputError, match=words):
        compute_masks(build(), method, amount, signed)


def test_sparsity_is_told_layer_by_layer():
    network = build()
    convs = find_prunable(network)
    first = next(iter(convs))
    convs[first].weight.data.view(-1)[:7] = 0
    told = measure_sparsity(network)
    assert [layer.name for layer in told] == list(convs)
    assert (told[0].zeros, told[0].weights) == (7, convs[first].weight.numel())
    assert told[0].sparsity == 7 / told[0].weights and all(layer.zeros == 0 for layer in told[1:])


# ---- while training


def test_the_schedule_is_cubic_from_initial_to_final():
    assert schedule_sparsity(0, 0.1, 0.9) == pytest.approx(0.1)
    assert schedule_sparsity(0.5, 0.1, 0.9) == pytest.approx(0.9 - 0.8 / 8)
    assert schedule_sparsity(1, 0.1, 0.9) == schedule_sparsity(7, 0.1, 0.9) == 0.9


class Training:
    """SGD on noise with pruning; gives the number of zeros after every iteration."""

    def __init__(self, network: nn.Module, epochs: int = 4, length: int = 10, **pruning) -> None:
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
        self.network, self.zeros, self.masks = network, [], []
        self.engine = Engine(self.iterate)
        GradualPruning(network, **pruning).attach(self.engine)
        self.engine.add_event_handler(Events.ITERATION_COMPLETED, self.note)
        self.length, self.epochs = length, epochs

    def iterate(self, engine: Engine, batch: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        self.network(torch.randn(1, 1, 8, 8)).square().mean().backward()
        self.optimizer.step()

    def note(self, engine: Engine) -> None:
        weights = get_weights(self.network)
        self.zeros.append(sum(int((weight == 0).sum()) for weight in weights.values()))
        self.masks.append({name: weight == 0 for name, weight in weights.items()})

    def run(self) -> Training:
        torch.manual_seed(1)
        self.engine.run(range(self.length), max_epochs=self.epochs)
        return self


@pytest.mark.parametrize("pruning", [{"method": "magnitude", "amount": 0.6}, {"method": "sigma", "amount": 1.0}])
@pytest.mark.parametrize("ramp", [0.5, 1.0])
def test_zeros_grow_over_the_ramp_stay_zero_and_end_at_what_the_method_gives(pruning, ramp):
    network = build(channels=(8, 8))
    expected = [int((~mask).sum()) for mask in compute_masks(network, **pruning).values()]
    training = Training(network, ramp=ramp, interval=3, **pruning).run()
    assert [layer.zeros for layer in measure_sparsity(network)] == expected
    assert training.zeros == sorted(training.zeros) and len(set(training.zeros)) > 4
    assert training.zeros[int(40 * ramp) - 1 :] == [sum(expected)] * (41 - int(40 * ramp))
    for earlier, later in zip(training.masks, training.masks[1:]):
        assert all((later[name] | ~mask).all() for name, mask in earlier.items())


def test_weights_that_stay_go_on_learning_and_the_state_dict_keeps_its_keys():
    network = build()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Training(network, method="magnitude", amount=0.5).run()
    assert list(network.state_dict()) == list(before)
    for name, weight in get_weights(network).items():
        kept = weight != 0
        assert not torch.equal(weight[kept], before[f"{name}.weight"][kept])


def test_the_signed_reading_prunes_the_smallest_values():
    network = build(channels=(8, 8))
    Training(network, method="sigma", amount=0.5, signed=True, ramp=0.01, epochs=1, length=1).run()
    for weight in get_weights(network).values():
        assert (weight < 0).float().mean() < 0.02 and (weight == 0).float().mean() > 0.5


def test_a_network_that_has_zeros_keeps_them_at_amount_0():
    network = prune_by_magnitude(build(), 0.5)
    zeros = [layer.zeros for layer in measure_sparsity(network)]
    Training(network, method="magnitude", amount=0).run()
    assert [layer.zeros for layer in measure_sparsity(network)] == zeros


def test_a_run_that_starts_in_the_middle_goes_on_with_the_zeros_it_finds():
    network, handler_network = build(), build()
    handler = GradualPruning(handler_network, "magnitude", 0.5)
    handler_network.load_state_dict(prune_by_magnitude(network, 0.2).state_dict())  # as a resumed run does
    handler.start(None)
    with torch.no_grad():
        for conv in find_prunable(handler_network).values():
            conv.weight += 1
    handler.step(SimpleNamespace(state=SimpleNamespace(max_epochs=100, epoch_length=10, iteration=1)))
    for layer in measure_sparsity(handler_network):
        assert layer.zeros == round(0.2 * layer.weights)


@pytest.mark.parametrize("ramp", [0, -1, 1.5])
def test_a_ramp_outside_0_to_1_is_refused(ramp):
    with pytest.raises(InputError, match="ramp must be in"):
        GradualPruning(build(), ramp=ramp)

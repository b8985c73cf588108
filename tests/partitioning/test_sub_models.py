from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache

import onnxruntime
import pytest
import torch
from torch import nn

from common.compression.complexity import count_nonzero_parameters, count_parameters
from common.compression.zeros import prune_by_sigma
from common.errors import InputError
from common.networks import LiteUNet
from common.networks.weights import save_weights
from common.partitioning.algorithms import RULES, partition, tabulate
from common.partitioning.layers import Layer, measure_layers
from common.partitioning.sub_models import (
    IMAGE,
    LOGITS,
    SubModel,
    load_sub_model,
    prune_sub_models,
    run_sub_models,
    split_network,
)
from zoo.variants import VARIANTS

ROWS = {variant.title: variant.network for variant in VARIANTS}
SHAPE = (2, 1, 32, 32)


def build(title: str, **changes) -> LiteUNet:
    """A network in eval mode whose normalization does something."""
    torch.manual_seed(0)
    network = LiteUNet(**ROWS[title] | changes).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


@cache
def build_narrow(title: str) -> LiteUNet:
    """One with 32 channels on every level, which GroupNorm's 32 groups allow; not to be changed."""
    return build(title, channels=[32] * 5)


def cut(network: LiteUNet, number: int, rule: str = "balanced") -> list[SubModel]:
    layers: list[Layer] = measure_layers(network, (1, *SHAPE[1:]))
    return split_network(network, partition(layers, rule, number))


def build_shallow(title: str) -> LiteUNet:
    """One of three levels, for what takes long."""
    return build(title, channels=[32] * 3, num_convs=[1, 2, 2])


def check_that_stages_equal_the_network(
    network: LiteUNet, rules: Sequence[str], numbers: Sequence[int] = range(1, 9), size: int = 32
) -> None:
    image = torch.randn(2, 1, size, size)
    layers = measure_layers(network, (1, 1, size, size))
    cuts = {tuple(partition(layers, rule, number)) for rule in rules for number in numbers}
    with torch.no_grad():
        expected = network(image)
        for starts in cuts:
            tensors = run_sub_models(split_network(network, starts), image)
            assert torch.equal(tensors[LOGITS], expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("title", ROWS)
def test_chained_sub_models_are_the_network_to_the_bit(title, rule):
    check_that_stages_equal_the_network(build_narrow(title), [rule])


@pytest.mark.slow
@pytest.mark.parametrize("title", ROWS)
def test_chained_sub_models_are_the_network_to_the_bit_at_full_width(title):
    check_that_stages_equal_the_network(build(title), [*RULES], numbers=[4], size=16)


@pytest.mark.parametrize("title", ["SD-UNet", "WP-UNet"])
def test_chained_sub_models_are_the_network_with_the_channels_last(title):
    network = copy.deepcopy(build_narrow(title)).to(memory_format=torch.channels_last)
    check_that_stages_equal_the_network(network, ["balanced"])


def test_another_network_is_told_from_this_one():
    network, other = build_narrow("Pocket U-Net"), build("Pocket U-Net", channels=[32] * 5)
    nn.init.zeros_(other.decoder[3].block.conv1.weight)
    image = torch.randn(SHAPE)
    with torch.no_grad():
        assert not torch.equal(run_sub_models(cut(other, 4), image)[LOGITS], network(image))


def test_tensors_are_named_after_the_layers_that_give_them():
    first, second = split_network(build_narrow("UNet"), [0, 19])  # before up7
    assert first.input_names == (IMAGE,) and second.output_names == (LOGITS,)
    assert first.output_names == second.input_names == ("conv1_2", "conv2_2", "conv3_2", "conv6_2")


def test_names_are_the_same_from_stage_to_stage():
    for title in ROWS:
        sub_models = cut(build_narrow(title), 8)
        made = {IMAGE}
        for sub_model in sub_models:
            assert set(sub_model.input_names) <= made
            made |= set(sub_model.output_names)
        wanted = {name for sub_model in sub_models for name in sub_model.input_names} | {LOGITS}
        assert made | {IMAGE} == wanted | {IMAGE}  # nothing is given that nobody takes


@pytest.mark.parametrize("title", ROWS)
def test_inputs_are_the_bytes_of_the_table(title):
    network = build_narrow(title)
    layers = measure_layers(network, (1, *SHAPE[1:]))
    starts = partition(layers, "as_published", 4)
    sub_models = split_network(copy.deepcopy(network).to("meta"), starts)
    tensors = run_sub_models(sub_models, torch.empty(1, *SHAPE[1:], device="meta"))
    for sub_model, part in list(zip(sub_models, tabulate(layers, starts)))[1:]:
        assert sum(tensors[name].nbytes for name in sub_model.input_names) == part.received_bytes


@pytest.mark.parametrize("title", ROWS)
def test_every_parameter_is_in_one_sub_model_under_its_own_name(title):
    network = build_narrow(title)
    sub_models = cut(network, 4)
    names = [name for sub_model in sub_models for name in sub_model.state_dict()]
    assert sorted(names) == sorted(network.state_dict())
    parts = tabulate(*(lambda layers: (layers, partition(layers)))(measure_layers(network, (1, *SHAPE[1:]))))
    assert [count_parameters(sub_model) for sub_model in sub_models] == [part.parameters for part in parts]


def test_a_copy_is_a_sub_model_too():
    sub_model = cut(build_narrow("UNet"), 2)[1]
    assert copy.deepcopy(sub_model).input_names == sub_model.input_names


# ---- each on its own


@pytest.mark.parametrize("title", ["Pocket U-Net", "SD-UNet", "WP-UNet"])
@pytest.mark.parametrize("way", ["script", "trace", "export"])
def test_a_sub_model_runs_without_the_others(title, way, tmp_path):
    sub_models = cut(build_shallow(title), 3)
    with torch.no_grad():
        tensors = run_sub_models(sub_models, torch.randn(SHAPE))
        for number, sub_model in enumerate(sub_models):
            inputs = tuple(tensors[name] for name in sub_model.input_names)
            path = tmp_path / f"{number}.pt2"
            if way == "export":
                torch.export.save(torch.export.export(sub_model, inputs), path)
                alone = torch.export.load(path).module()
            else:
                made = torch.jit.script(sub_model) if way == "script" else torch.jit.trace(sub_model, inputs)
                torch.jit.save(made, path)
                alone = torch.jit.load(path)
            given = alone(*inputs)
            expected = [tensors[name] for name in sub_model.output_names]
            torch.testing.assert_close([given] if isinstance(given, torch.Tensor) else list(given), expected)


@pytest.mark.slow
@pytest.mark.parametrize("title", ["UNet", "SD-UNet"])
def test_a_sub_model_runs_as_onnx(title, tmp_path):
    sub_models = cut(build_shallow(title), 2)
    with torch.no_grad():
        tensors = run_sub_models(sub_models, torch.randn(SHAPE))
    for sub_model in sub_models:
        inputs = tuple(tensors[name] for name in sub_model.input_names)
        path = str(tmp_path / "sub_model.onnx")
        torch.onnx.export(
            sub_model, inputs, path, input_names=sub_model.input_names, output_names=sub_model.output_names
        )
        session = onnxruntime.InferenceSession(path)
        assert tuple(i.name for i in session.get_inputs()) == sub_model.input_names
        given = session.run(sub_model.output_names, {name: tensors[name].numpy() for name in sub_model.input_names})
        for name, output in zip(sub_model.output_names, given):
            assert (torch.from_numpy(output) - tensors[name]).abs().max() < 1e-5 * tensors[name].abs().max()


# ---- weights of its own


@pytest.mark.parametrize("amount", [0.0, 2.0], ids=["mapped", "deflated"])
def test_a_sub_model_loads_its_own_weights(amount, tmp_path):
    network = prune_by_sigma(build_narrow("WP-UNet"), amount)
    save_weights(network, tmp_path / "model.pt")
    on_meta = copy.deepcopy(network).to("meta")
    sub_models = [copy.deepcopy(sub_model).to_empty(device="cpu") for sub_model in cut(on_meta, 3)]
    for sub_model in sub_models:
        load_sub_model(sub_model, on_meta, tmp_path / "model.pt")
    assert all(p.is_meta for p in on_meta.parameters())
    image = torch.randn(SHAPE)
    with torch.no_grad():
        assert torch.equal(run_sub_models(sub_models, image)[LOGITS], network(image))


def test_wrong_weights_are_one_line(tmp_path):
    network = build_narrow("Pocket U-Net")
    sub_model = cut(network, 2)[0]
    files = {"missing": None, "garbage": b"PK no weights"}
    for name, content in files.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=name):
            load_sub_model(sub_model, network, path)
    save_weights(build("Pocket U-Net"), tmp_path / "other.pt")
    with pytest.raises(InputError, match="other.pt: weights of another network: .*expected shape"):
        load_sub_model(sub_model, network, tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"list.pt: .*expected a state dict, found list"):
        load_sub_model(sub_model, network, tmp_path / "list.pt")


# ---- Algorithm II


@pytest.mark.parametrize("signed", [False, True])
def test_pruned_sub_models_are_the_sub_models_of_the_pruned_network(signed):
    network = build_narrow("UNet")
    sub_models = prune_sub_models(cut(network, 4), 0.5, signed)
    pruned = prune_by_sigma(network, 0.5, signed)
    image = torch.randn(SHAPE)
    with torch.no_grad():
        assert torch.equal(run_sub_models(sub_models, image)[LOGITS], pruned(image))
    assert sum(count_nonzero_parameters(sub_model) for sub_model in sub_models) == count_nonzero_parameters(pruned)
    # Gaussian weights: 38.3 % lie within half a standard deviation, 69.1 % below it; biases and the head stay
    kept = count_nonzero_parameters(pruned) / count_nonzero_parameters(network)
    assert kept == pytest.approx(0.309 if signed else 0.617, abs=0.02)
    assert all(isinstance(sub_model, SubModel) for sub_model in sub_models)

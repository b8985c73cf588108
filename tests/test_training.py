from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from torch import nn

from common.errors import InputError
from common.networks import LiteUNet
from common.training import BatchNormKeeper, BFloat16Inferer, RecordedSteps, RunKeeper

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


def test_they_are_estimated_on_as_many_views_as_asked_for():
    network, expected = build(), build()
    BatchNormKeeper(network, BATCHES, torch.device("cpu"), most_views=5).estimate(Engine(lambda engine, batch: None))
    BatchNormKeeper(expected, BATCHES[:2], torch.device("cpu")).estimate(Engine(lambda engine, batch: None))
    torch.testing.assert_close(network.encoder[0].norm.running_mean, expected.encoder[0].norm.running_mean)
    assert not torch.equal(network.encoder[0].norm.running_mean, build().encoder[0].norm.running_mean)


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


def make_trainer(network: nn.Module, batches: list, **options: object) -> SupervisedTrainer:
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=batches,
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=0.01),
        loss_function=DiceCELoss(to_onehot_y=True, softmax=True, batch=True),
        inferer=SimpleInferer(),
        prepare_batch=lambda batch, *_, **__: (batch["image"], batch["label"]),
        **options,
    )


def test_a_batch_of_several_steps_trains_as_its_parts_do_one_by_one():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(8, 1, 16, 16, generator=generator)
    parts = [{"image": part, "label": (part > 0.8).float()} for part in image.split(2)]
    whole = [{key: torch.cat([part[key] for part in parts]) for key in parts[0]}]
    expected, network, losses = build(), build(), []
    make_trainer(expected, parts).run()
    trainer = make_trainer(network, whole, iteration_update=RecordedSteps(2))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: losses.append(trainer.state.output[0]["loss"]))
    trainer.run()
    assert trainer.state.iteration == 2 and losses[1] < losses[0]
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: a step is not recorded")
def test_a_recorded_step_trains_as_one_that_is_launched(monkeypatch):
    image = torch.rand(4, 1, 16, 16, device="cuda")
    batch = {"image": image, "label": (image > 0.8).float()}
    networks = [build().cuda(), build().cuda()]
    for network, warm_up in zip(networks, (3, 0)):
        # what warms up counts as steps
        monkeypatch.setattr(RecordedSteps, "warm_up", warm_up)
        trainer = make_trainer(network, [batch] * (5 - warm_up), iteration_update=RecordedSteps(4))
        trainer.state.max_epochs = 1
        lr = torch.tensor(0.01, device="cuda")
        trainer.optimizer = torch.optim.AdamW(network.parameters(), lr=lr, capturable=True)
        if not warm_up:
            monkeypatch.setattr(RecordedSteps, "_replay", RecordedSteps._train)
        trainer.run()
    for tensor, expected in zip(networks[0].state_dict().values(), networks[1].state_dict().values()):
        torch.testing.assert_close(tensor, expected, rtol=0.05, atol=0.01)

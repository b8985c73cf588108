"""What a training run needs beyond MONAI's handlers: reproducible epochs, resuming, whole files, a line of progress."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from ignite.engine import Events
from monai.config import PathLike
from monai.engines import Evaluator, Trainer
from monai.inferers import SimpleInferer
from monai.utils import set_determinism
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from .errors import InputError
from .files import write_whole
from .kits.cases import check_output, find_cases
from .kits.views import ViewDataset
from .networks import fold_batch_norm
from .networks.weights import save_weights

logger = logging.getLogger(__name__)


def check_settings(
    dataset_dir: PathLike | Sequence[PathLike],
    folders: Sequence[PathLike],
    learning_rate: float,
    num_workers: int,
    views_per_epoch: int | None = None,
    seed: int = 0,
    **counts: int,
) -> None:
    """
    Refuse wrong settings of a training before anything is read or written.

    Args:
        dataset_dir: see `find_cases`.
        folders: what the run writes to.
        counts: further settings that are whole numbers from 1 on, by name.

    Raises:
        InputError: naming the setting, or the folder, see `check_output`.
    """
    if views_per_epoch is not None:
        counts["views_per_epoch"] = views_per_epoch
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise InputError(f"{name}: expected a positive whole number, found {count}.")
    for name, count in (("num_workers", num_workers), ("seed", seed)):
        if not isinstance(count, int) or count < 0:
            raise InputError(f"{name}: expected 0 or a positive whole number, found {count}.")
    if not isinstance(learning_rate, (int, float)) or not 0 < learning_rate < float("inf"):
        raise InputError(f"learning_rate: expected a positive number, found {learning_rate}.")
    try:
        cases = find_cases(dataset_dir)
    except InputError:
        # told when the split looks for them; MONAI Label hands its own over, and other data are laid out otherwise
        cases = []
    for folder in folders:
        check_output(folder, dataset_dir, cases)


class BFloat16Inferer(SimpleInferer):
    """
    Runs the network under autocast to bfloat16 and gives its output in float32: MONAI's `amp` is for GPUs alone.

    Worth it where the CPU multiplies bfloat16 matrices (AMX); elsewhere it is slower. The weights stay in float32, and
    so does validation.
    """

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args, **kwargs) -> torch.Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return super().__call__(inputs, network, *args, **kwargs).float()


class RecordedSteps:
    """
    `iteration_update` of a MONAI trainer: augments a batch at once, and trains on its parts, an optimizer's step each.

    On a GPU a step is recorded as a CUDA graph, one for every size of window, and replayed: launched one by one from
    Python, the kernels of a small network take several times as long. The network runs under autocast to bfloat16
    there. A recording warms up with `warm_up` steps more than are asked for. The optimizer must be `capturable` and
    its learning rate a tensor, so that a scheduler's new value reaches the recording. On a CPU it is the same loop.

    Args:
        batch_size: views of a step; the batches that come hold a multiple of them.

    Source: Ng et al., "Accelerating PyTorch with CUDA Graphs",
    https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/.
    """

    warm_up = 3

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.recordings: dict[tuple[int, ...], tuple] = {}

    def __call__(self, engine: Trainer, batchdata: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """
        Train on a batch.

        Returns:
            the mean loss of its steps, as MONAI's handlers read it.
        """
        engine.network.train()
        batch = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking)
        parts = zip(*(tensor.split(self.batch_size) for tensor in batch))
        losses = [self._replay(engine, *part) for part in parts]
        return [{"loss": torch.stack(losses).mean()}]

    def _replay(self, engine: Trainer, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        if image.device.type != "cuda":
            return self._train(engine, image, label)
        if image.shape not in self.recordings:
            self.recordings[image.shape] = self._record(engine, image, label)
        graph, inputs, loss = self.recordings[image.shape]
        for recorded, given in zip(inputs, (image, label)):
            recorded.copy_(given)
        graph.replay()
        return loss.clone()

    def _record(self, engine: Trainer, image: torch.Tensor, label: torch.Tensor) -> tuple:
        inputs = image.clone(), label.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.warm_up):
                self._train(engine, *inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self._train(engine, *inputs)
        return graph, inputs, loss

    @staticmethod
    def _train(engine: Trainer, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        engine.optimizer.zero_grad(set_to_none=True)
        is_gpu = image.device.type == "cuda"
        # the cache of casts would hold tensors of one recording for the next
        with torch.autocast(image.device.type, torch.bfloat16, enabled=is_gpu, cache_enabled=False):
            logits = engine.inferer(image, engine.network)
        loss = engine.loss_function(logits.float(), label).mean()
        loss.backward()
        engine.optimizer.step()
        return loss.detach()


class BatchNormKeeper:
    """
    Estimates BatchNorm's running statistics anew at the end of an epoch, from one pass over the training views.

    A momentum of 0.01 follows the weights a few hundred iterations late: in a short run, and after pruning, the network
    would be validated and kept with statistics of weights long gone. Training itself never uses them. Without BatchNorm
    nothing is done. Attach it before the handlers that validate and keep weights.

    Args:
        network: the plain network, not its DistributedDataParallel wrapper.
        dataloader: of the training views.
        interval: epochs between two estimates; the last epoch always has one.
        most_views: views of the pass, about.

    Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", https://arxiv.org/abs/2105.07576, Section 3.
    """

    def __init__(
        self,
        network: nn.Module,
        dataloader: DataLoader,
        device: torch.device,
        interval: int = 1,
        most_views: int = 1600,
    ) -> None:
        self.network = network
        self.dataloader = dataloader
        self.device = device
        self.interval = interval
        self.most_views = most_views

    def attach(self, engine: Trainer) -> None:
        """Hook into a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.estimate)

    def estimate(self, engine: Trainer) -> None:
        """Replace the statistics, when it is time."""
        is_last = engine.state.epoch == engine.state.max_epochs
        if is_last or engine.state.epoch % self.interval == 0:
            update_bn(self._take(), self.network, self.device)

    def _take(self) -> Iterator[torch.Tensor]:
        """The first views."""
        taken = 0
        for batch in self.dataloader:
            yield batch["image"]
            taken += len(batch["image"])
            if taken >= self.most_views:
                return


class RunKeeper:
    """
    Keeps the best weights, and the state of an unfinished run so that the same command goes on with it.

    Every epoch starts from a seed of its own (seed + epoch), so an interrupted and resumed run ends with the weights of
    an uninterrupted one. Attach it after the handlers that validate and that step the learning rate.

    Files, written in one piece by rank 0: `model.pt`, the flat CPU state dict of the epoch with the best validation
    metric, or of the last epoch; `checkpoint.pt`, the state after the last epoch, removed when the run is complete.

    Args:
        ckpt_dir: folder of both files.
        network: the plain network, not its DistributedDataParallel wrapper.
        scheduler: learning-rate scheduler.
        validator: its key metric decides which weights are best.
        dataset: training views; their epoch is set, and their state kept.
        keep: which weights `model.pt` holds, "best" or "last"; the held-out cases have no say in the last ones.
        resume: go on with `checkpoint.pt` where there is one; otherwise it is written over.

    Raises:
        InputError: for another `keep`; at the start, when `checkpoint.pt` belongs to a run on other cases or with other
            epochs.
    """

    def __init__(
        self,
        ckpt_dir: str | os.PathLike,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        validator: Evaluator,
        dataset: ViewDataset,
        seed: int = 0,
        resume: bool = True,
        keep: str = "best",
    ) -> None:
        if keep not in ("best", "last"):
            raise InputError(f"keep must be 'best' or 'last', got keep={keep!r}.")
        folder = Path(str(ckpt_dir))
        self.weights_path, self.checkpoint_path = folder / "model.pt", folder / "checkpoint.pt"
        self.parts = {"network": network, "optimizer": optimizer, "scheduler": scheduler, "views": dataset}
        self.validator = validator
        self.dataset = dataset
        self.seed = seed
        self.resume = resume
        self.keep = keep

    def attach(self, engine: Trainer) -> None:
        """Hook into a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.complete_epoch)
        engine.add_event_handler(Events.COMPLETED, self.complete)

    def start(self, engine: Trainer) -> None:
        """Load the state of the unfinished run, if there is one."""
        if not self.resume or not self.checkpoint_path.is_file():
            return
        hint = "--resume False starts afresh, --ckpt_dir keeps both."
        try:
            checkpoint = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
            found = checkpoint["run"]
        except Exception as error:  # the unpickler of a file that is no pickle raises whatever its bytes make it do
            raise InputError(
                f"{self.checkpoint_path}: expected an unfinished run, found a damaged file; {hint}"
            ) from error
        if found != self._describe_run(engine):
            raise InputError(
                f"{self.checkpoint_path}: expected the unfinished run of these cases and epochs, found another; {hint}"
            )
        try:
            for name, part in self.parts.items():
                part.load_state_dict(checkpoint[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{self.checkpoint_path}: expected the unfinished run of this network, found another; {hint}"
            ) from error
        engine.state.epoch = checkpoint["epoch"]
        engine.state.iteration = checkpoint["iteration"]
        for name, value in checkpoint["best"].items():
            setattr(self.validator.state, name, value)
        logger.info(f"resuming after epoch {engine.state.epoch} of {self.checkpoint_path}")

    def start_epoch(self, engine: Trainer) -> None:
        """Seed the epoch: augmentation and dropout by torch's generator, views by the data set."""
        set_determinism(seed=self.seed + engine.state.epoch)
        self.dataset.set_epoch(engine.state.epoch)

    def complete_epoch(self, engine: Trainer) -> None:
        """Write the weights when this epoch's are to be kept, and the state of the run."""
        if engine.state.rank > 0:
            return
        validated = self.validator.state
        best = {"best_metric": float(validated.best_metric), "best_metric_epoch": validated.best_metric_epoch}
        if self.keep == "last" or validated.best_metric_epoch == engine.state.epoch:
            save_weights(fold_batch_norm(self.parts["network"]), self.weights_path)
        state = {name: part.state_dict() for name, part in self.parts.items()}
        progress = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        with write_whole(self.checkpoint_path) as temporary:
            torch.save(state | progress | {"best": best, "run": self._describe_run(engine)}, temporary)

    def complete(self, engine: Trainer) -> None:
        """Remove the state of a run that needs no resuming."""
        if engine.state.rank == 0:
            self.checkpoint_path.unlink(missing_ok=True)
            logger.info(f"{self.keep} weights: {self.weights_path}")

    def _describe_run(self, engine: Trainer) -> dict:
        return {"cases": self.dataset.case_names, "epochs": engine.state.max_epochs}


class ProgressLine:
    """
    Logs one line an epoch: loss, validation metrics, the best so far, time an epoch and time left.

    Args:
        validator: the evaluator whose metrics are told.
    """

    def __init__(self, validator: Evaluator) -> None:
        self.validator = validator
        self.losses: list[float] = []

    def attach(self, engine: Trainer) -> None:
        """Hook into a trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.tell)

    def start(self, engine: Trainer) -> None:
        """Start the clock."""
        self.started, self.first_epoch = time.monotonic(), engine.state.epoch

    def collect(self, engine: Trainer) -> None:
        """Remember the loss of an iteration."""
        self.losses.append(float(engine.state.output[0]["loss"]))

    def tell(self, engine: Trainer) -> None:
        """Log the line."""
        state, validated = engine.state, self.validator.state
        epoch_s = (time.monotonic() - self.started) / (state.epoch - self.first_epoch)
        left_s = round(epoch_s * (state.max_epochs - state.epoch))
        metrics = "".join(f"  {name} {value:.3f}" for name, value in validated.metrics.items())
        best = f"  best {validated.best_metric:.3f} (epoch {validated.best_metric_epoch})" if metrics else ""
        logger.info(
            f"epoch {state.epoch}/{state.max_epochs}  loss {sum(self.losses) / len(self.losses):.3f}{metrics}{best}"
            f"  {epoch_s:.1f} s/epoch  {left_s // 60}:{left_s % 60:02d} left"
        )
        self.losses.clear()

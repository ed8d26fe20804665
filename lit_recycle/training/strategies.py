"""Lightning's two FSDP strategies, as a model that grows needs them.

Both build the model on the meta device, shard it block by block, draw the same initial weights whatever the number of
processes, and read and write checkpoints by tensor name, so that a checkpoint fits the other strategy and any number of
processes. Both run on a CPU with gloo, to be tried on a laptop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.strategies import FSDPStrategy as LightningFSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp.wrap import CustomPolicy
from torch.distributed.tensor import Shard
from torch.optim import Optimizer
from torchmetrics import Metric
from typing_extensions import override

from lit_recycle.checkpoints import sharded
from lit_recycle.checkpoints.io import own_io
from lit_recycle.checkpoints.native import load_checkpoint, trained_weights
from lit_recycle.checkpoints.remote import on_disk
from lit_recycle.checkpoints.sharded import CURRENT
from lit_recycle.growth.shards import best_dimension
from lit_recycle.training import named_state
from lit_recycle.training.averages import load_sharded_averages
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.masks import load_masks

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for another one before it ends the run; Lightning's default is half an hour. What takes
long in one process alone (tokenising) happens behind a barrier that has no limit."""


class NamedCheckpoints:
    """Checkpoints by tensor name: a folder of shards, or one file that a single process can load."""

    model: nn.Module
    lightning_module: L.LightningModule
    optimizers: list[Optimizer]
    global_rank: int
    checkpoints: Literal["sharded", "full"]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return named_state.weights(self.model)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        return named_state.optimizer_state(self.model, getattr(optimizer, "optimizer", optimizer))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        path = self.broadcast(filepath)  # type: ignore[attr-defined]
        if self.checkpoints == "sharded":
            own_io(self).save_shards(*sharded.split(checkpoint), path)  # type: ignore[arg-type]
            return
        whole = named_state.assemble(checkpoint, keep=self.global_rank == 0)
        if self.global_rank == 0:
            own_io(self).save_checkpoint(whole, path)  # type: ignore[arg-type]
        self.barrier()  # type: ignore[attr-defined]

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        path = on_disk(self.broadcast(checkpoint_path))  # type: ignore[attr-defined]
        fitting = self.lightning_module.trainer.state.fn == TrainerFn.FITTING
        optimizers = self.optimizers if fitting else []
        checkpoint = load_checkpoint(path)
        if path.is_dir():
            trained = CURRENT if fitting and sharded.holds(path, CURRENT) else "state_dict"
            named_state.load_folder(self.model, optimizers, path, checkpoint, trained)
        else:
            weights = trained_weights(checkpoint) if fitting else checkpoint["state_dict"]
            named_state.load_file(self.model, optimizers, checkpoint | {"state_dict": weights})
        averages = load_sharded_averages(self.lightning_module.trainer, self.model, path, checkpoint)
        return checkpoint | averages | load_masks(self.model, path, checkpoint)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Nothing: `load_checkpoint` has read the weights, each process its own."""

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Nothing: `load_checkpoint` has read the optimizer's state."""


class FSDPStrategy(NamedCheckpoints, LightningFSDPStrategy):  # type: ignore[misc]  # model is set before use
    """Lightning's ``FSDPStrategy`` (FSDP1), wrapped per transformer block.

    Args:
        checkpoints: ``sharded`` folders that any number of processes can read, or one ``full`` file.
        timeout: How long a process waits for another one before it ends the run.
        **kwargs: Those of Lightning's ``FSDPStrategy``; ``auto_wrap_policy`` and ``state_dict_type`` are set here.
    """

    wraps_late = True
    growing = False
    """Set up again for a grown model, which gets its weights from the small one: no need to draw any."""

    def __init__(
        self, checkpoints: Literal["sharded", "full"] = "sharded", timeout: timedelta = TIMEOUT, **kwargs: Any
    ) -> None:
        _one_of("checkpoints", checkpoints, ("sharded", "full"))
        super().__init__(state_dict_type="sharded", timeout=timeout, **kwargs)
        self.checkpoints = checkpoints

    @override
    def setup_environment(self) -> None:
        _check_offload(self.cpu_offload is not None and self.cpu_offload.offload_params, self.root_device)
        super().setup_environment()
        # With a mesh, sharded state is DTensors, as under FSDP2.
        mesh = self.kwargs.get("device_mesh") or init_device_mesh(self.root_device.type, (self.world_size,))
        self.kwargs["device_mesh"] = mesh

    @override
    def _setup_model(self, model: GrowableModule) -> nn.Module:
        # Overridden because Lightning hands FSDP the index of a device, which a CPU does not have.
        precision = self.mixed_precision_config
        if precision is not None:  # autocast casts inputs where it is safe; gradients and buffers keep their range
            precision = replace(
                precision,
                reduce_dtype=torch.float32,
                buffer_dtype=torch.float32,
                cast_forward_inputs=False,
                cast_root_forward_inputs=False,
            )
        layers = set(layers_of(model))
        self.kwargs["auto_wrap_policy"] = CustomPolicy(layers.__contains__)
        wrapped = FSDP(
            model,
            cpu_offload=self.cpu_offload,
            mixed_precision=precision,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device,
            param_init_fn=self._allocate,
            **self.kwargs,
        )
        for metric in (m for m in model.modules() if isinstance(m, Metric)):
            metric.to(self.root_device)
        if not self.growing:
            named_state.set_weights(wrapped, model.initial_value)
        return wrapped

    def _allocate(self, module: nn.Module) -> None:
        if any(t.is_meta for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            module.to_empty(device=self.root_device, recurse=False)

    def shard(self, module: GrowableModule) -> None:
        """Nothing: FSDP1 wraps the whole module when the strategy is set up."""

    def allocate(self, model: nn.Module) -> None:
        """Nothing, likewise."""


class FSDP2Strategy(NamedCheckpoints, ModelParallelStrategy):  # type: ignore[misc]  # likewise
    """Lightning's ``ModelParallelStrategy`` with all processes in data parallelism: FSDP2 per transformer block.

    Args:
        checkpoints: ``sharded`` folders that any number of processes can read, or one ``full`` file.
        cpu_offload: Keep parameters, gradients and optimizer state in CPU memory between uses.
        reshard_after_forward: Free a block's parameters between its forward and its backward pass.
        timeout: How long a process waits for another one before it ends the run.
        **kwargs: ``process_group_backend`` of Lightning's ``ModelParallelStrategy``.
    """

    wraps_late = False

    def __init__(
        self,
        checkpoints: Literal["sharded", "full"] = "sharded",
        cpu_offload: bool = False,
        reshard_after_forward: bool = True,
        timeout: timedelta = TIMEOUT,
        **kwargs: Any,
    ) -> None:
        _one_of("checkpoints", checkpoints, ("sharded", "full"))
        super().__init__(tensor_parallel_size=1, timeout=timeout, **kwargs)
        self.checkpoints, self.cpu_offload, self.reshard_after_forward = checkpoints, cpu_offload, reshard_after_forward

    @override
    def setup_environment(self) -> None:
        _check_offload(self.cpu_offload, self.root_device)
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, module: GrowableModule) -> None:
        """Shard a module's model on the meta device over all processes, layer by layer; it stays there.

        Each parameter is divided along the dimension that divides best.
        """
        assert module.model is not None
        offload: OffloadPolicy = CPUOffloadPolicy() if self.cpu_offload else OffloadPolicy()
        precision = MixedPrecisionPolicy(cast_forward_inputs=False)
        if self.precision_plugin.precision == "bf16-mixed":
            precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        mesh = self.device_mesh["data_parallel"]

        def placement(parameter: nn.Parameter) -> Shard:
            return Shard(best_dimension(parameter.shape, mesh.size()))

        for part in (*layers_of(module), module.model):
            fully_shard(
                part,
                mesh=mesh,
                shard_placement_fn=placement,
                mp_policy=precision,
                offload_policy=offload,
                reshard_after_forward=self.reshard_after_forward and part is not module.model,
            )

    def allocate(self, model: nn.Module) -> None:
        """Give a sharded model memory, uninitialised. Buffers that have values keep them."""
        device = torch.device("cpu") if self.cpu_offload else self.root_device
        model._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device))

    @override
    def model_to_device(self) -> None:
        if not self.cpu_offload:
            super().model_to_device()


def layers_of(module: GrowableModule) -> list[nn.Module]:
    """The layers of a module's model, which are sharded one by one."""
    naming = module.shape.naming
    return [part for name, part in module.named_modules() if naming.is_layer(name)]


def _check_offload(wanted: bool, device: torch.device) -> None:
    if wanted and device.type == "cpu":
        raise ValueError(
            "strategy.cpu_offload keeps on the CPU what a GPU computes with, and there is none: leave it out"
        )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"strategy.{name} must be one of {', '.join(allowed)}, got {value!r}")


StrategyRegistry.register("fsdp", FSDPStrategy, description="FSDP of a model that can grow", override=True)
StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2 of a model that can grow", override=True)
StrategyRegistry.register("ddp", DDPStrategy, description="DDP", override=True, timeout=TIMEOUT)

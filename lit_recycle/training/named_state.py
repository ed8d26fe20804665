"""Named state: weights and optimizer state of a model in training by name, however it is wrapped and sharded.

Plain modules, DDP and FSDP2 hold whole or sharded (``DTensor``) parameters under their names. FSDP1 holds flat slices,
and gives named shards when asked; all that it takes is in this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, ShardedOptimStateDictConfig, ShardedStateDictConfig, StateDictType
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from lit_recycle.checkpoints import sharded
from lit_recycle.growth.optimizer import OptimizerState, ParamState, name_state, number_state
from lit_recycle.growth.shards import local_part, window
from lit_recycle.hub.joined import Value, put
from lit_recycle.hub.joined import whole as read_whole
from lit_recycle.training.param_groups import check_saved_groups


def clean_name(name: str) -> str:
    """A parameter's name without what wrappers put into it."""
    return name.replace("_fsdp_wrapped_module.", "").removeprefix("module.")


def parameter_names(module: nn.Module) -> list[str]:
    """Names of all parameters, without what wrappers put into them."""
    return [clean_name(name) for name, _ in module.named_parameters()]


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """All parameters by name; under FSDP2 the shards that an optimizer has, also right after a forward pass."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    return {clean_name(name): parameter for name, parameter in module.named_parameters()}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, sharing memory with the model where it has them in this form."""
    if isinstance(model, FSDP):
        with _shards(model):
            return {n: t.detach() for n, t in model.state_dict().items()}
    return {clean_name(n): t.detach() for n, t in model.state_dict(keep_vars=True).items()}


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy named tensors, whole or sharded, into the model."""
    if isinstance(model, FSDP):
        shards = weights(model)
        for name, tensor in tensors.items():
            _copy(shards[name], tensor)
        with _shards(model):
            model.load_state_dict(shards)
        return
    for name, target in weights(model).items():
        _copy(target, tensors[name])


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> OptimizerState:
    """The optimizer's state by parameter name, in the model's order."""
    names = {id(parameter): clean_name(name) for name, parameter in model.named_parameters()}
    groups = [
        options(group) | {"param_names": [names[id(parameter)] for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    if isinstance(model, FSDP):
        with _shards(model):
            state = FSDP.optim_state_dict(model, optimizer)["state"]
        return {"state": state, "param_groups": groups}
    return {"state": named_state(model, optimizer), "param_groups": groups}


def named_state(model: nn.Module, optimizer: Optimizer) -> dict[str, ParamState]:
    """State of the parameters, by name, as it lies in this process."""
    return {clean_name(n): dict(optimizer.state[p]) for n, p in model.named_parameters() if p in optimizer.state}


def options(group: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimizer's parameter group says besides its parameters."""
    return {k: v for k, v in group.items() if k not in ("params", "param_names")}


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, saved: OptimizerState) -> None:
    """Take over state and options; the optimizer's own division of parameters into groups stays."""
    check_saved_groups(optimizer, saved["param_groups"])
    for group, saved_group in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update(options(saved_group))
    states: dict[str, ParamState] = saved["state"]
    if isinstance(model, FSDP):
        with _shards(model):
            named = {"state": states, "param_groups": FSDP.optim_state_dict(model, optimizer)["param_groups"]}
            optimizer.load_state_dict(FSDP.optim_state_dict_to_load(model, optimizer, named))
        return
    for name, param in model.named_parameters():
        if clean_name(name) in states:
            optimizer.state[param] = states[clean_name(name)]


@torch.no_grad()
def set_weights(model: nn.Module, value: Callable[[str, torch.Size], Value | None]) -> None:
    """Give each named tensor the value that ``value(name, shape)`` has for it, whole; each process takes its part.

    Of a value that lies in pieces it reads that part alone.
    """
    if not isinstance(model, FSDP):
        for name, target in weights(model).items():
            if (found := value(name, target.shape)) is not None:
                for dimension, held in enumerate(window(target)):
                    if held != slice(0, target.shape[dimension]):
                        found = found.narrow(dimension, held.start, held.stop - held.start)
                put(local_part(target), found)
        return
    for name, part in layout(model).items():  # named shards would be copies
        if (found := value(name, part.shape)) is not None:
            part.take(found)
    for name, buffer in _kept_buffers(model):
        if (found := value(name, buffer.shape)) is not None:
            put(buffer, found)


def tied(module: nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same, group by group."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def tie(module: nn.Module, groups: Sequence[Sequence[str]]) -> None:
    """Make the parameters of each group one again, after values were assigned: the first."""
    for first, *others in groups:
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, module.get_parameter(first))


# --- checkpoints -----------------------------------------------------------------------------------------------------


def load_folder(
    model: nn.Module, optimizers: Sequence[Optimizer], path: Path, rest: Mapping[str, Any], kind: str = "state_dict"
) -> None:
    """Read a sharded checkpoint into a model and its optimizers, each process its own part.

    Args:
        model: The model.
        optimizers: Its optimizers; none of them, and only weights are read.
        path: The folder.
        rest: What `load_checkpoint` gives of it.
        kind: Which weights: ``state_dict``, or those in training beside an average.
    """
    parameters = weights(model)
    tensors = {f"{kind}/{name}": tensor for name, tensor in parameters.items()}
    for name, (size, dtype) in sharded.sizes(path).items():
        owner, _, tail = name.partition("/")
        if owner in (f"optimizer_{i}" for i in range(len(optimizers))):
            parameter = parameters.get(tail.rpartition("/")[0])
            if parameter is None:
                raise ValueError(f"{path} is a checkpoint of another model: this one has no parameter {tail!r}")
            same = size == parameter.shape
            tensors[name] = torch.zeros_like(parameter, dtype=dtype) if same else torch.zeros(size, dtype=dtype)
    sharded.load_sharded(tensors, path)
    load_weights(model, parameters)
    for i, optimizer in enumerate(optimizers):
        load_optimizer_state(model, optimizer, sharded.join(tensors, rest, i))


def load_file(model: nn.Module, optimizers: Sequence[Optimizer], checkpoint: Mapping[str, Any]) -> None:
    """Take a whole checkpoint into a model and its optimizers, each process its own part."""
    load_weights(model, checkpoint["state_dict"])
    parameters = weights(model)
    for optimizer, saved in zip(optimizers, checkpoint.get("optimizer_states", []), strict=False):
        named = name_state(saved)
        for name, state in named["state"].items():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameters[name].shape:
                    state[key] = like(parameters[name], value)
        load_optimizer_state(model, optimizer, named)


def assemble(checkpoint: dict[str, Any], keep: bool) -> dict[str, Any]:
    """A checkpoint of sharded tensors as one of whole tensors on the CPU, tensor by tensor; kept by some processes."""

    def whole(value: Any) -> Any:
        if isinstance(value, DTensor):
            value = value.full_tensor()
        return value.cpu() if keep and isinstance(value, Tensor) else None if isinstance(value, Tensor) else value

    weights = {
        kind: {name: whole(tensor) for name, tensor in checkpoint.pop(kind).items()}
        for kind in sharded.NAMED
        if kind in checkpoint
    }
    optimizers = checkpoint.pop("optimizer_states", [])
    for saved in optimizers:
        saved["state"] = {n: {k: whole(v) for k, v in state.items()} for n, state in saved["state"].items()}
    states = [number_state(saved) for saved in optimizers]
    return checkpoint | weights | {"optimizer_states": states}


# --- FSDP1 and shards ------------------------------------------------------------------------------------------------


class Slice(NamedTuple):
    """This process's part of a parameter: elements ``start … start + length`` of it, flattened."""

    param: nn.Parameter
    start: int
    length: int
    shape: torch.Size

    def of(self, whole: Tensor) -> Tensor:
        return whole.flatten()[self.start : self.start + self.length]

    def take(self, value: Value) -> None:
        """Copy this part of a whole parameter: whole rows straight to their place, and what is cut off of others."""
        row, end, position = self.shape[1:].numel(), self.start + self.length, self.start
        while position < end:
            place, (first, inside) = self.param[position - self.start :], divmod(position, row)
            if rows := 0 if inside else (end - position) // row:
                put(place[: rows * row].view(rows, *self.shape[1:]), value.narrow(0, first, rows))
                position += rows * row
            else:
                cut = read_whole(value.narrow(0, first, 1)).flatten()[inside : inside + end - position]
                place[: cut.numel()].copy_(cut)
                position += cut.numel()


def layout(model: FSDP) -> dict[str, Slice]:
    """The slice of every parameter that this process holds, by name."""
    parts = {}
    for unit in FSDP.fsdp_modules(model):
        # Where a process's slice of a parameter begins is told nowhere in public.
        flat = unit._handle.flat_param if unit._handle else None
        if flat is not None:
            assert flat._params is not None  # with use_orig_params, as Lightning sets it
            for param, shape, info in zip(flat._params, flat._shapes, flat._shard_param_infos, strict=True):
                parts[id(param)] = Slice(param, info.intra_param_start_idx or 0, info.numel_in_shard or 0, shape)
    return {clean_name(name): parts[id(param)] for name, param in model.named_parameters()}


def _kept_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that a checkpoint holds."""
    for owner, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:  # a wrapped model's state dict would copy all weights
                yield clean_name(f"{owner}.{name}" if owner else name), buffer


def _shards(model: FSDP) -> AbstractContextManager[Any]:
    return FSDP.state_dict_type(
        model,
        StateDictType.SHARDED_STATE_DICT,
        ShardedStateDictConfig(offload_to_cpu=False),
        ShardedOptimStateDictConfig(offload_to_cpu=False),
    )


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(template: Tensor, value: Tensor) -> Tensor:
    """``value``, whole on every process, in the device and sharding of ``template``; each process keeps its part."""
    if not isinstance(template, DTensor) or isinstance(value, DTensor):
        return value.to(template.device)
    value = value.to(template.device)
    return distribute_tensor(value, template.device_mesh, template.placements, src_data_rank=None)


@torch.no_grad()
def _copy(target: Tensor, source: Tensor) -> None:
    if isinstance(source, DTensor) or not isinstance(target, DTensor):
        target.copy_(source)
    else:
        target.copy_(like(target, source))

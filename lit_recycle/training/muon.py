"""Muon: orthogonalised momentum for hidden matrices, experts one by one, and AdamW for everything else (Jordan 2024).

Axes: N matrices of a batch, A rows, B columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT
from typing_extensions import override

from lit_recycle.growth.axes import EXPERTS, UNKNOWN, TensorAxes
from lit_recycle.growth.native import NATIVE
from lit_recycle.growth.shards import local_part, shard_dimension
from lit_recycle.training.orthogonal import Matrices, NewtonSchulz
from lit_recycle.training.owners import on_owners

ALGORITHMS = ("muon", "adamw")
FUSED_DEVICES = ("cpu", "cuda")
NOT_HIDDEN = frozenset({"V", EXPERTS, "one", "kernel"})
"""Axes that no side of a hidden matrix has: those of embeddings, routers and biases of experts, gates, convolutions."""
Algorithm = Literal["muon", "adamw"]


class Muon(Optimizer):
    """Muon for matrices in hidden layers, AdamW for embeddings, head, routers, gates and vectors.

    A tensor that holds several matrices, such as experts or a gate beside its up projection, has each of them
    orthogonalised apart. On tensors of two dimensions the update is that of ``torch.optim.Muon``, and options of the
    same name mean the same.

    Each group of parameters that does not name its ``algorithm`` is divided in two by the axes of its tensors: those
    under the group's key ``axes`` by parameter name, or else those that this project's own model has. Under FSDP2
    experts stay where they are; a matrix that is cut among processes is put together on one of them.

    Args:
        params: Parameters, named or in groups; a group may have ``algorithm``, ``muon`` or ``adamw``.
        lr: Learning rate.
        weight_decay: Decoupled weight decay, times the unadjusted rate.
        momentum: Factor of the momentum.
        nesterov: Look ahead by one step of the momentum.
        ns_coefficients: Of the Newton–Schulz polynomial.
        eps: Least norm that a matrix is divided by.
        ns_steps: Number of Newton–Schulz steps.
        adjust_lr_fn: ``original`` multiplies the rate by √max(1, A/B), ``match_rms_adamw`` by 0.2·√max(A, B), which
            makes updates as large as AdamW's (Liu et al. 2025). ``original`` when not given.
        adamw_lr: Learning rate of AdamW, where a group has none of its own; ``lr`` when not given.
        betas: Of AdamW.
        adamw_eps: Of AdamW.

    Raises:
        ValueError: For options out of range, matrices of which nothing is known, and flat slices as FSDP1 makes them.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None,
        adamw_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
    ) -> None:
        numbers = {"lr": lr, "adamw_lr": adamw_lr, "weight_decay": weight_decay, "eps": eps, "adamw_eps": adamw_eps}
        for name, value in numbers.items():
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"Muon.{name} must be a finite number and not negative, got {value}")
        for name, value in {"momentum": momentum, "betas[0]": betas[0], "betas[1]": betas[1]}.items():
            if not 0 <= value < 1:
                raise ValueError(f"Muon.{name} must lie in 0..1, 1 excluded, got {value}")
        if not 1 <= ns_steps < 100:
            raise ValueError(f"Muon.ns_steps must lie in 1..99, got {ns_steps}")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Muon.adjust_lr_fn must be original or match_rms_adamw, got {adjust_lr_fn!r}")
        self._adamw_lr = adamw_lr
        self.found_inf: Tensor | None = None
        self._matrices: dict[Tensor, Matrices] = {}
        defaults = dict(
            lr=lr,
            weight_decay=weight_decay,
            algorithm=None,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=tuple(ns_coefficients),
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
            betas=tuple(betas),
            adamw_eps=adamw_eps,
        )
        super().__init__(params, defaults)

    # --- who gets what -----------------------------------------------------------------------------------------------

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, or its two halves, one of which may be empty: a growth leaves the number of groups as it is."""
        axes, wanted = param_group.pop("axes", {}), param_group.get("algorithm")
        if wanted not in (None, *ALGORITHMS):
            raise ValueError(f"algorithm must be {' or '.join(ALGORITHMS)}, got {wanted!r}")
        params = param_group["params"]
        halves: dict[str, list[Any]] = {algorithm: [] for algorithm in (ALGORITHMS if wanted is None else (wanted,))}
        for param in [params] if isinstance(params, Tensor) else params:
            name, tensor = param if isinstance(param, tuple) else ("", param)
            known = axes.get(name) or NATIVE.parse(name).axes
            algorithm = wanted or algorithm_for(name, tensor, known)
            if algorithm == "muon":
                self._matrices[tensor] = _matrices(name, tensor, known)
            halves[algorithm].append(param)
        for algorithm, half in halves.items():
            group: dict[str, Any] = {**param_group, "params": half, "algorithm": algorithm}
            if not half and any(isinstance(param, tuple) for other in halves.values() for param in other):
                group["param_names"] = []
            if wanted is None and "name" in group:
                group["name"] += f"/{algorithm}"
            if algorithm == "adamw" and self._adamw_lr is not None:
                group.setdefault("lr", self._adamw_lr)
            super().add_param_group(group)

    # --- step --------------------------------------------------------------------------------------------------------

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                (self._step_muon if group["algorithm"] == "muon" else self._step_adamw)(group, params)
        return loss

    @property
    def skips_on_device(self) -> bool:
        """Whether a tensor ``found_inf`` that is one lets a step change nothing, as in torch's fused optimizers."""
        return all(p.device.type in FUSED_DEVICES for group in self.param_groups for p in group["params"])

    @contextmanager
    def _unless_skipped(self, tensor: Tensor) -> Iterator[Tensor]:
        """A tensor to be changed in place, which has its old values afterwards if the step is to be skipped."""
        old = None if self.found_inf is None else tensor.clone()
        yield tensor
        if old is not None and self.found_inf is not None:
            tensor.copy_(torch.where(self.found_inf.to(tensor.device) > 0, old, tensor))

    def _state(self, param: Tensor, *keys: str) -> dict[str, Any]:
        """State of a parameter; begun anew where there is none, or that of the other algorithm."""
        state = self.state[param]
        if keys[0] not in state:
            state.clear()  # a parameter that a growth has added comes with zeros of its source's kinds
            state |= {key: torch.zeros_like(param, memory_format=torch.preserve_format) for key in keys}
        return state

    def _step_muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        updates = []
        for param in params:
            assert param.grad is not None
            gradient = local_part(param.grad)
            momentum = local_part(self._state(param, "momentum_buffer")["momentum_buffer"])
            with self._unless_skipped(momentum):
                momentum.lerp_(gradient, 1 - group["momentum"])
            update = gradient.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
            updates.append(update.bfloat16())
        iteration = NewtonSchulz(group["ns_coefficients"], group["ns_steps"], group["eps"])
        lr = float(group["lr"])
        for param, update in zip(params, self._orthogonal(params, updates, iteration), strict=True):
            adjusted = lr * self._matrices[param].rate(param.shape, group["adjust_lr_fn"])
            with self._unless_skipped(local_part(param)) as weight:
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(update, alpha=-adjusted)

    def _orthogonal(self, params: list[Tensor], updates: list[Tensor], iteration: NewtonSchulz) -> list[Tensor]:
        """Orthogonalised updates, of which each process has and gets its part."""
        done: dict[Tensor, Tensor] = {}

        def orthogonal(chosen: Sequence[Tensor], whole: list[Tensor]) -> list[Tensor]:
            return iteration(whole, [self._matrices[param] for param in chosen])

        parts = dict(zip(params, updates, strict=True))
        cut = [param for param in params if is_cut(param)]
        here = [param for param in params if not is_cut(param)]
        done |= zip(here, orthogonal(here, [parts[param] for param in here]), strict=True)
        done |= zip(cut, on_owners(cut, [parts[param] for param in cut], orthogonal), strict=True)
        return [done[param] for param in params]

    def _step_adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        states = [self._state(param, "exp_avg", "exp_avg_sq") for param in params]
        for param, state in zip(params, states, strict=True):
            step = state.get("step", torch.zeros((), dtype=torch.float32))
            state["step"] = step.to(param.device)  # a checkpoint may have brought it on a CPU
        adamw(
            params,
            [param.grad for param in params],  # type: ignore[misc]  # those without one are left out
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=params[0].device.type in FUSED_DEVICES,
            found_inf=self.found_inf,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["adamw_eps"],
            maximize=False,
        )


def algorithm_for(name: str, tensor: Tensor, axes: TensorAxes) -> Algorithm:
    """Muon for a matrix that maps one hidden vector to another; AdamW for the rest.

    Raises:
        ValueError: For a tensor of two dimensions or more of which no table knows the axes.
    """
    if not axes.known:
        if tensor.dim() < 2:
            return "adamw"
        raise ValueError(
            f"Muon cannot tell whether {name or 'a parameter without a name'} of shape {tuple(tensor.shape)} is a "
            "hidden matrix: say algorithm: muon or adamw of it in model.param_groups"
        )
    if len(axes.dimensions) < 2:
        return "adamw"
    sides = {factor for dimension in axes.dimensions[-2:] for factor in dimension.factors}
    if sides & NOT_HIDDEN:
        return "adamw"
    return "muon"


def _matrices(name: str, tensor: Tensor, axes: TensorAxes) -> Matrices:
    if axes.known and tensor.dim() != len(axes.dimensions):
        raise ValueError(
            f"Muon needs whole matrices, and of {name} each process holds a flat slice, as FSDP1 makes them: set "
            "trainer.strategy to fsdp2, ddp or auto, or model.optimizer to an elementwise one such as AdamW"
        )
    if tensor.dim() < 2:
        raise ValueError(f"Muon is for matrices, and {name or 'a parameter'} has shape {tuple(tensor.shape)}")
    return Matrices.of(axes if axes.known else UNKNOWN)


def is_cut(tensor: Tensor) -> bool:
    """Whether processes hold parts of its matrices, and not whole ones."""
    if not isinstance(tensor, DTensor):
        return False
    dimension = shard_dimension(tensor)
    return dimension is not None and dimension >= tensor.dim() - 2

"""Muon on the matrices and AdamW on the rest, as one optimizer.

Muon (K. Jordan et al., 2024) replaces a matrix's gradient by the nearest semi-orthogonal matrix, computed with
a few Newton-Schulz iterations. `torch.optim.Muon` iterates in bfloat16, one matrix at a time, and rejects
convolution weights. This float32 version stacks matrices of equal shape, which is several times faster on a CPU.
A single optimizer for both kinds of parameters keeps checkpoints and learning rate schedules simple.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import nn
from torch.optim.adamw import adamw

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ITERATION = (3.4445, -4.7750, 2.0315)  # quintic coefficients of the Muon authors
_N_ITERATIONS = 5


class MuonAdamW(torch.optim.Optimizer):
    """Muon for groups with ``muon=True``, AdamW for the others.

    Args:
        params: parameter groups; keys ``muon``, ``lr``, ``momentum``, ``betas``, ``eps``, ``weight_decay``.
        lr: default learning rate of a group.
        weight_decay: default decoupled weight decay of a group.

    Raises:
        ValueError: if a Muon group holds a parameter with fewer than two dimensions.
    """

    def __init__(self, params: Iterable[dict[str, Any]], lr: float = 1e-3, weight_decay: float = 0.0):
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "muon": False,
            "momentum": 0.95,
            "betas": (0.9, 0.95),
            "eps": 1e-8,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            shapes = [tuple(p.shape) for p in group["params"] if p.ndim < 2]
            if group["muon"] and shapes:
                raise ValueError(
                    f"Muon needs matrices but got a parameter of shape {shapes[0]}; put it in a group without muon=True"
                )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step; return the closure's loss, or `None` without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if params and group["muon"]:
                self._muon(group, params)
            elif params:
                self._adamw(group, params)
        return loss

    def _muon(self, group: dict[str, Any], params: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Apply Muon to `params`, pairs of parameter and gradient."""
        stacks: defaultdict[torch.Size, list[tuple[torch.Tensor, torch.Tensor, bool]]] = defaultdict(list)
        for p, gradient in params:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            update = gradient.lerp(state["momentum"], group["momentum"]).flatten(1)
            is_tall = update.shape[0] > update.shape[1]
            stacks[(update.mT if is_tall else update).shape].append((p, update, is_tall))
        for stack in stacks.values():
            updates = orthogonalise(torch.stack([u.mT if tall else u for _, u, tall in stack]).float())
            for (p, update, is_tall), direction in zip(stack, updates, strict=True):
                direction = direction.mT if is_tall else direction
                scale = math.sqrt(max(1.0, update.shape[0] / update.shape[1]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(direction.reshape(p.shape).to(p.dtype), alpha=-group["lr"] * scale)

    def _adamw(self, group: dict[str, Any], params: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Apply AdamW to `params`, pairs of parameter and gradient."""
        for p, _ in params:
            state = self.state[p]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
        states = [self.state[p] for p, _ in params]
        adamw(
            [p for p, _ in params],
            [gradient for _, gradient in params],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Return the matrices with every singular value moved close to 1 (roughly 0.7 to 1.2).

    Args:
        matrices: float32 (n, rows, columns) with rows <= columns.

    Returns:
        float32 (n, rows, columns).
    """
    a, b, c = _ITERATION
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_N_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def muon_groups(
    model: PreTrainedModel, muon_learning_rate: float, learning_rate: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return parameter groups for `MuonAdamW`: hidden matrices train with Muon, the rest with AdamW.

    Embeddings and the output head train with AdamW because each of their rows belongs to a separate token or position;
    so do biases and norms.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    rows = {
        id(parameter)
        for module in (*tables, model.get_input_embeddings(), model.get_output_embeddings())
        if module is not None
        for parameter in module.parameters()
    }
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and id(parameter) not in rows
            (matrices if is_matrix else rest).append(parameter)
    return [
        {"params": matrices, "muon": True, "lr": muon_learning_rate, "weight_decay": weight_decay},
        {"params": rest, "lr": learning_rate},
    ]

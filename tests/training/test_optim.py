"""Muon and AdamW in one optimizer."""

import pytest
import torch
from torch import nn

from livecc_hf.training.optim import MuonAdamW, muon_groups, orthogonalise


def test_orthogonalise_flattens_the_singular_values():
    torch.manual_seed(0)
    singular_values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 16, 40)))
    assert singular_values.min() > 0.5
    assert singular_values.max() < 1.4


def test_the_adamw_part_is_torchs():
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(5)), None
    theirs = nn.Parameter(ours.detach().clone())
    optimizers = [
        MuonAdamW([{"params": [ours], "lr": 0.1, "weight_decay": 0.01}]),
        torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.95), weight_decay=0.01),
    ]
    for step in range(5):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = torch.sin(parameter.detach() + step)
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (8, 3, 2, 4)])
def test_muon_reduces_a_loss_whatever_the_shape(shape):
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape))
    target = torch.randn(shape)
    optimizer = MuonAdamW([{"params": [weight], "muon": True, "lr": 0.15}])
    losses = []
    for _ in range(60):
        loss = (weight - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_state_survives_saving():
    torch.manual_seed(0)

    def run(interrupted: bool) -> torch.Tensor:
        weight, bias = nn.Parameter(torch.ones(4, 6)), nn.Parameter(torch.ones(4))
        groups = [{"params": [weight], "muon": True}, {"params": [bias]}]
        optimizer = MuonAdamW(groups, lr=0.1)
        for step in range(6):
            if interrupted and step == 3:
                state = optimizer.state_dict()
                optimizer = MuonAdamW([{"params": [weight], "muon": True}, {"params": [bias]}], lr=0.5)
                optimizer.load_state_dict(state)
            weight.grad = torch.cos(weight.detach() * torch.arange(6) + step)
            bias.grad = torch.cos(bias.detach() + step)
            optimizer.step()
        return torch.cat([weight.flatten(), bias]).detach()

    assert torch.equal(run(interrupted=False), run(interrupted=True))


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"\(5,\)"):
        MuonAdamW([{"params": [nn.Parameter(torch.zeros(5))], "muon": True}])


def test_groups_leave_embeddings_and_head_to_adamw(make_model):
    model = make_model("mrope")
    muon, rest = muon_groups(model, 0.02, 0.003)
    assert all(p.ndim >= 2 for p in muon["params"])
    in_rest = {id(p) for p in rest["params"]}
    assert id(model.get_input_embeddings().weight) in in_rest
    assert id(model.get_output_embeddings().weight) in in_rest
    assert len(muon["params"]) + len(rest["params"]) == len(list(model.parameters()))

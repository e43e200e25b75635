"""Muon: orthogonal steps for the hidden weights, those of AdamW for the others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightcrl.heads.muon import Muon, orthogonal
from samples import randn


@pytest.mark.parametrize("shape", [(6, 6), (4, 12), (12, 3)])
def test_it_keeps_the_directions_of_a_matrix_and_equals_their_lengths(shape):
    left, _, right = torch.linalg.svd(randn(*shape, seed=3), full_matrices=False)
    made = left.mT @ orthogonal(left @ torch.linspace(5, 1, min(shape)).diag() @ right) @ right.mT
    grown = max(1, shape[0] / shape[1]) ** 0.5
    assert made.diagonal().sub(0.95 * grown).abs().max() < 0.3 * grown
    assert (made - made.diagonal().diag()).abs().max() < 0.05 * grown


def test_hidden_weights_take_orthogonal_steps_and_the_others_those_of_adamw():
    layers = nn.ModuleDict({"hidden": nn.Conv2d(3, 4, 2), "other": nn.Linear(3, 4)})
    twin = nn.ModuleDict({"hidden": nn.Conv2d(3, 4, 2), "other": nn.Linear(3, 4)})
    twin.load_state_dict(layers.state_dict())
    group = {"lr": 0.1, "weight_decay": 0.5}
    optimiser = Muon([{"params": list(layers.parameters()), **group}], [layers["hidden"].weight], 2.0)
    plain = torch.optim.AdamW(twin.parameters(), **group)
    before = layers["hidden"].weight.detach().clone()
    gradients = {name: randn(*weight.shape, seed=n) for n, (name, weight) in enumerate(layers.named_parameters())}
    for network, stepper in ((layers, optimiser), (twin, plain)):
        for name, weight in network.named_parameters():
            weight.grad = gradients[name].clone()
        stepper.step()
    # A first step: the mean is 0.05 g, looked ahead 0.0975 g, whose length has no part in the direction.
    direction = orthogonal(gradients["hidden.weight"].flatten(1)).view_as(before)
    expected = before * (1 - 0.2 * 0.5) - 0.2 * direction
    torch.testing.assert_close(layers["hidden"].weight, expected, atol=1e-2, rtol=0)
    for name in ("hidden.bias", "other.weight", "other.bias"):
        assert layers.get_parameter(name).equal(twin.get_parameter(name))
    assert not layers["hidden"].weight.equal(twin["hidden"].weight)

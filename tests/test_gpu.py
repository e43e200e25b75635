"""What only a GPU can show; `python benchmarks/gpu.py` runs it, and `test_devices.py` its paths on any machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightcrl.checkpoint import load_folder
from lightcrl.embedder import Embedder
from lightcrl.index.search import nearest
from lightcrl.losses import LOSSES
from lightcrl.methods import METHODS
from lightcrl.training.loop import train
from lightcrl.training.spec import TrainingSpec
from samples import randn, units
from test_devices import TRAINING, checkpoint, features, step_losses

__all__ = ["features"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU of CUDA"),
]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_and_embeds_on_it_nearly_as_on_the_cpu(name, features, tmp_path):
    for device in ("cpu", "cuda"):
        spec = TrainingSpec(**TRAINING, device=device)
        train(checkpoint(name, input_dropout=0.0), features, spec, tmp_path / device)
    # Dropout inside a method draws other numbers there, so that only the first loss can be near where it has none.
    own, there = step_losses(tmp_path / "cpu"), step_losses(tmp_path / "cuda")
    assert len(own) == len(there)
    assert np.isfinite(there).all()
    if own and name in ("linear", "structure"):
        assert there == pytest.approx(own, rel=1e-3)
    items = [randn(4, 6, seed=n) for n in range(3)]
    saved = load_folder(tmp_path / "cuda" / "best")
    vectors = [Embedder(saved, device=device).encode_vectors(items, "image") for device in ("cuda", "cpu")]
    np.testing.assert_allclose(*vectors, atol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_in_pieces_has_the_value_and_gradient_of_float64(loss):
    groups, bias = torch.arange(5000) // 2, torch.tensor(-10.0)
    sides = [units(5000, 64, seed=seed).requires_grad_() for seed in (0, 1)]
    scale = torch.tensor(14.3)
    exact = LOSSES.load(loss)(*sides, groups, groups, scale.double(), bias.double())
    exact.backward()
    there = [side.detach().float().cuda().requires_grad_() for side in sides]
    value = LOSSES.load(loss)(*there, groups.cuda(), groups.cuda(), scale.cuda(), bias.cuda())
    value.backward()
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)
    for here, mine in zip(sides, there, strict=True):
        largest = float(here.grad.abs().max())
        torch.testing.assert_close(mine.grad.double().cpu(), here.grad, rtol=1e-2, atol=1e-3 * largest)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_search_finds_the_same_places(dtype):
    vectors, queries = units(50_000, 64).to(dtype), units(100, 64, seed=1)
    here, there = nearest(queries, vectors, 10), nearest(queries, vectors.cuda(), 10)
    assert torch.equal(here[0], there[0].cpu())
    torch.testing.assert_close(here[1], there[1].cpu(), atol=1e-6, rtol=0)


def test_tokens_are_copied_from_pinned_memory_in_bfloat16(features, tmp_path):
    made = checkpoint("dfe")
    train(made, features, TrainingSpec(**TRAINING | {"precision": "bfloat16"}, device="cuda"), tmp_path)
    assert {p.device.type for p in made.method.parameters()} == {"cuda"}
    tokens = features.store("image").gather(np.arange(4)).pinned()
    assert tokens.values.is_pinned()
    assert torch.equal(tokens.to("cuda").values.cpu(), tokens.values)

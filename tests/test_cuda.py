"""What only a GPU can show: its random state is put back, and a probed run stays the run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import alidade
from alidade.core.schedule import Every
from tests.cases import cross_entropy

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def _run(out: Path | None) -> tuple[list[torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    torch.backends.cudnn.deterministic = True
    model = alidade.nn.vgg(8, width=1 / 16, norm="noisy").cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    probes = ["update_profile", "relative_profile", "layer_scalars", "theorem_4_1", "covariate_shift"]
    survey = out and alidade.Survey(model, cross_entropy, optimizer, out, probes, Every(interval=5), budget=None)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        batch = (torch.randn(8, 3, 32, 32, generator=generator).cuda(), torch.arange(8).cuda() % 10)
        if survey:
            survey.observe(batch)
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    if survey:
        survey.close()
    return [*model.parameters(), *model.buffers()], torch.cuda.get_rng_state()


def test_a_surveyed_run_on_a_gpu_is_bit_identical(tmp_path: Path) -> None:
    (plain, plain_state), (probed, probed_state) = _run(None), _run(tmp_path / "s")
    assert all(torch.equal(a, b) for a, b in zip(plain, probed, strict=True))
    assert torch.equal(plain_state, probed_state)
    assert not alidade.load(tmp_path / "s")["status"].str.starts_with("failed").any()


def test_a_profile_on_a_gpu_agrees_with_the_cpu() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 4)).double()
    x, y = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 4
    here = alidade.line_profile(alidade.Objective(model, cross_entropy, (x, y)), [0.1, 1.0])
    there = alidade.line_profile(alidade.Objective(model.cuda(), cross_entropy, (x.cuda(), y.cuda())), [0.1, 1.0])
    # float64 on both: sums of a few dozen terms in another order, and one difference of gradients
    assert there.losses == pytest.approx(here.losses, rel=1e-12)
    assert there.gradient_distances == pytest.approx(here.gradient_distances, rel=1e-9)


def test_a_state_that_was_loaded_onto_the_gpu_goes_on(tmp_path: Path) -> None:
    """With ``map_location`` all its tensors are there, also the statistics, which live in NumPy."""
    probes, batch = ["activations", "curvature"], (torch.randn(8, 5).cuda(), torch.arange(8).cuda() % 3)

    def survey_of(out: Path, state: Path | None = None) -> alidade.Survey:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        survey = alidade.Survey(model, cross_entropy, optimizer, out, probes, budget=None, name="mine")
        if state is not None:
            survey.load_state_dict(torch.load(state, weights_only=True, map_location="cuda"))
        for _ in range(2):
            survey.observe(batch)
            optimizer.zero_grad()
            cross_entropy(model, batch).backward()
            optimizer.step()
        return survey

    first = survey_of(tmp_path / "s")
    torch.save(first.state_dict(), tmp_path / "state")
    first.close()
    survey_of(tmp_path / "s", tmp_path / "state").close()
    found = alidade.load(tmp_path / "s")
    assert set(found["step"]) >= {0, 1, 2, 3}
    assert not found["status"].str.starts_with("failed").any()
    assert 2 in set(found.filter(found["quantity"].str.ends_with("_change"))["step"])

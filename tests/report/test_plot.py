import json

import numpy as np
import pytest

from alidade.core.curvature import Curvature, SpectralDensity, TopEigenvalues, Trace
from alidade.core.errors import CallError, WorkError
from alidade.core.records import LineProfile, Provenance
from alidade.report.plot import plot

MAGIC = {".svg": b"<svg", ".png": b"\x89PNG", ".pdf": b"%PDF", ".html": b"<!DOCTYPE html>"}


@pytest.fixture(scope="module")
def profile():
    eta = np.array([0.05, 0.1, 0.2, 0.4])
    return LineProfile(
        step_sizes=eta, losses=np.array([1.0, 0.9, 1.5, np.inf]), gradient_distances=3 * eta, gradient_cosines=1 - eta,
        effective_smoothness=20 / eta**0.2, directional_curvature=10 / eta, resolution=0.1 + 0 * eta,
        status=("ok", "ok", "below_resolution", "ok"), loss=1.1, gradient_norm=2.0, direction_norm=2.0,
        provenance=Provenance("batch", "float32", 64, 3),
    )  # fmt: skip


@pytest.mark.parametrize("suffix", MAGIC)
def test_a_chart_is_saved_in_each_format(tmp_path, profile, suffix):
    path = plot(profile).save(tmp_path / f"x{suffix}")
    assert path.read_bytes().lstrip().startswith(MAGIC[suffix])


def test_a_saved_page_fetches_nothing(tmp_path, profile):
    html = plot(profile).save(tmp_path / "x.html").read_text()
    assert 'src="http' not in html
    assert "jsdelivr" not in html


def test_another_format_lists_the_known_ones(tmp_path, profile):
    with pytest.raises(CallError, match=r"expected a name that ends in \.svg, \.html, \.png, \.pdf, got 'x\.bmp'"):
        plot(profile).save(tmp_path / "x.bmp")


def test_an_unwritable_place_is_one_line(tmp_path, profile):
    with pytest.raises(WorkError, match="expected a file that can be written"):
        plot(profile).save(tmp_path / "missing" / "x.svg")


@pytest.mark.parametrize("thing", [3, "runs/demo", [], [1, 2], None, {"a": 1}])
def test_what_cannot_be_plotted_is_told_what_can(thing):
    with pytest.raises(CallError, match="expected anything measured, a Study, a table as"):
        plot(thing)


def test_numbers_that_may_not_be_drawn_are_not_in_the_picture(profile):
    datasets = plot(profile).spec["datasets"]
    assert all("inf" not in values for values in datasets.values())
    smoothness = next(values for name, values in datasets.items() if "smoothness" in name)
    assert len(smoothness.strip().splitlines()) == 1 + 3  # a header, and all but the one below its resolution


@pytest.mark.parametrize("kind", ["study", "table", "verdicts", "survey"])
def test_studies_tables_and_verdicts_are_drawn(synthetic, study, verdicts, kind):
    few = study.frame.filter(study.frame["run"].is_in(list(study.specs)[:2]))
    things = {"study": study, "table": few, "verdicts": verdicts, "survey": synthetic.survey()}
    svg = plot(things[kind])._repr_html_()
    assert svg.startswith("<svg")
    assert "NaN" not in svg
    assert "var(--" not in svg


def test_one_figure_of_a_study_can_be_chosen(study):
    spec = plot(study, figure="smoothness").spec
    assert spec["vconcat"][0]["title"]["text"].startswith("Effective smoothness")
    same = plot(study, figure="landscape.smoothness").spec
    assert same == spec
    with pytest.raises(CallError, match=r"expected figure to be one of training, .*, landscape\.loss_band, "):
        plot(study, figure="smoothnes")


def test_a_figure_that_the_study_lacks_is_said(synthetic):
    with pytest.raises(CallError, match="holds no measurements for the figure 'noisy'"):
        plot(synthetic.study(norms=("none",), seeds=[100]), figure="noisy")


def test_a_notebook_gets_picture_and_specification(profile):
    bundle = plot(profile)._repr_mimebundle_()
    assert bundle["image/svg+xml"].startswith("<svg")
    assert "vconcat" in bundle["application/vnd.vegalite.v6+json"]


def test_measurements_per_layer_are_drawn() -> None:
    import torch
    from torch.nn import functional as F

    import alidade

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    batch = (torch.randn(8, 5), torch.arange(8) % 3)

    def loss_fn(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = {name: value + 0.1 if value.is_floating_point() else value for name, value in before.items()}
    measured = {
        "Covariate shift l2": alidade.covariate_shift(model, loss_fn, batch, before, after),
        "Weight norm": alidade.layer_scalars(alidade.Objective(model, loss_fn, batch), lr=0.1),
        "Activation mean": alidade.activation_statistics(model, loss_fn, batch),
    }
    for title, thing in measured.items():
        assert title in json.dumps(alidade.plot(thing).spec)


AT = Provenance("batch", "float64", 8)


def _spectrum(problem: str | None = None) -> SpectralDensity:
    grid = np.linspace(-1.0, 9.0, 50)
    return SpectralDensity(
        grid, np.exp(-(grid**2)), 0.01 * np.ones(50), np.array([[0.0, 8.0]]), np.array([[0.9, 0.1]]), np.array([8.0]),
        8.0, 0.04, 100, 20, "kept", AT, problem,
    )  # fmt: skip


def test_curvature_is_drawn_with_its_error():
    top = TopEigenvalues(np.array([9.0, 4.0]), np.array([0.01, 1.0]), 1e-2, "largest", 12, "kept", AT)
    chart = json.dumps(plot(top).spec, ensure_ascii=False)
    assert "1 not converged and not drawn" in chart
    assert "λ1,9.0,8.99,9.01" in chart  # the bar reaches one residual to each side
    assert "λ2" not in chart
    trace = json.dumps(plot(Trace(20.0, 0.5, True, 30, "hutchinson", "kept", AT)).spec, ensure_ascii=False)
    assert "tr H,20.0,19.0,21.0" in trace
    density = json.dumps(plot(_spectrum()).spec, ensure_ascii=False)
    assert "1 outliers" in density
    assert "batch statistics" in density


@pytest.mark.parametrize(
    "thing",
    [
        TopEigenvalues(np.array([9.0]), np.array([9.0]), 1e-2, "largest", 12, "kept", AT),
        Trace(20.0, 5.0, False, 30, "hutchinson", "kept", AT),
        Curvature(float("nan"), "batch_sharpness", "nat/w^2", 1, "kept", AT),
        _spectrum("differences disagree"),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_curvature_that_cannot_be_trusted_is_not_drawn(thing):
    with pytest.raises(CallError, match="expected a measurement that may be drawn, got status"):
        plot(thing)

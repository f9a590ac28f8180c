"""The pictures of loss surfaces and of interpolations."""

from __future__ import annotations

import numpy as np
import pytest

from alidade.core.errors import CallError
from alidade.core.records import Floats, Provenance
from alidade.core.surface import Interpolation, LossSurface
from alidade.report.plot import plot
from alidade.report.surface_pictures import contour

PROVENANCE = Provenance("batch", "float32", 64)


def surface(losses: Floats, trajectory: list[list[float]] | None = None, **changes: object) -> LossSurface:
    n, m = losses.shape
    path = np.array(trajectory or []).reshape(-1, 2)
    fields = {
        "x": np.linspace(-1, 1, n), "y": np.linspace(-2, 2, m), "losses": losses, "loss": 1.0, "directions": "random",
        "normalize": "filter", "direction_norms": (1.0, 1.0), "cosine": 0.0, "provenance": PROVENANCE,
        "trajectory": path, "trajectory_losses": np.ones(len(path)), "off_plane": np.zeros(len(path)),
    }  # fmt: skip
    return LossSurface(**(fields | changes))  # type: ignore[arg-type]


def bowl(n: int = 41, m: int = 31, floor: float = 0.0) -> LossSurface:
    x, y = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-2, 2, m), indexing="ij")
    return surface(x**2 + y**2 / 4 + floor)


def test_contours_of_a_bowl_are_circles() -> None:
    pieces = np.array(list(contour(bowl(), 0.5)))
    ends = np.concatenate([pieces[:, :2], pieces[:, 2:]])
    radius = ends[:, 0] ** 2 + ends[:, 1] ** 2 / 4
    # linear interpolation between points h apart errs by h^2 / 8 times the second derivative, in the centres by h^2 / 4
    # more: 2 h^2 / 8 + h^2 / 4 with h = 0.05 and 4/30 (whose derivative is 1/2)
    np.testing.assert_allclose(radius, 0.5, atol=0.01)
    steps = pieces[:, 2:] - pieces[:, :2]
    length = np.hypot(steps[:, 0], steps[:, 1] / 2).sum()
    assert length == pytest.approx(2 * np.pi * np.sqrt(0.5), rel=0.01)  # once around, without gaps


def test_contours_of_a_plane_are_exact_and_of_nothing_none() -> None:
    x, _ = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-2, 2, 4), indexing="ij")
    pieces = np.array(list(contour(surface(3 * x), 0.6)))
    np.testing.assert_allclose(pieces[:, [0, 2]], 0.2, atol=1e-15)
    assert np.abs(pieces[:, 3] - pieces[:, 1]).sum() == pytest.approx(4.0)
    assert list(contour(surface(3 * x), 4.0)) == []


def test_cells_beside_a_hole_have_no_contour() -> None:
    losses = bowl(5, 5).losses.copy()
    losses[2, 2] = np.nan
    pieces = np.array(list(contour(surface(losses), 1.0)))
    assert len(pieces)
    assert not ((np.abs(pieces[:, 0]) < 0.5) & (np.abs(pieces[:, 1]) < 1.0)).any()


def _layers(thing: LossSurface) -> tuple[dict, list[dict]]:  # type: ignore[type-arg]
    view = plot(thing).spec["vconcat"][0]["hconcat"][0]
    return view, view["layer"]


def test_colours_are_logarithmic_where_the_range_asks_for_it() -> None:
    for floor, kind in ((0.001, "log"), (1.0, "linear"), (0.0, "linear")):  # 0 has no logarithm
        view, layers = _layers(bowl(floor=floor))
        assert layers[0]["encoding"]["color"]["scale"]["type"] == kind
        assert ("log scale" in view["title"]["subtitle"]) == (kind == "log")


def test_what_is_not_finite_stays_blank_and_is_said() -> None:
    losses = bowl(5, 5).losses.copy()
    losses[0, :] = np.inf
    chart = plot(surface(losses))
    assert all("inf" not in values.lower() for values in chart.spec["datasets"].values())
    assert "blank: not finite" in chart._repr_html_()
    cells = next(values for name, values in chart.spec["datasets"].items() if name.endswith("d0"))
    assert len(cells.strip().splitlines()) == 1 + 20
    with pytest.raises(CallError, match="expected a surface with at least one finite loss, got none"):
        plot(surface(np.full((3, 3), np.nan)))


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf", ".html"])
def test_a_surface_with_its_trajectory_is_saved(tmp_path, suffix: str) -> None:  # type: ignore[no-untyped-def]
    thing = surface(
        bowl(9, 9).losses, [[0.9, 1.0], [0.4, -0.5], [0.0, 0.0]], directions="pca", normalize="raw",
        explained_variance=(0.91, 0.07),
    )  # fmt: skip
    assert plot(thing).save(tmp_path / f"x{suffix}").stat().st_size > 1000
    svg = plot(thing)._repr_html_()
    assert "91 % + 7 % of the trajectory" in svg
    assert "first principal component" in svg
    assert len(_layers(thing)[1]) > len(_layers(bowl(9, 9))[1])


def test_a_flat_surface_is_drawn_without_contours() -> None:
    assert plot(surface(np.ones((3, 3))))._repr_html_().startswith("<svg")


def test_an_interpolation_is_a_curve() -> None:
    losses = np.array([0.1, 2.0, np.nan, 0.2])
    line = Interpolation(np.linspace(0, 1, 4), losses, 3.0, "interpolated", 0, PROVENANCE)
    chart = plot(line)
    assert all("nan" not in values.lower() for values in chart.spec["datasets"].values())
    svg = chart._repr_html_()
    assert "fraction of the way" in svg
    assert "batch statistics" in svg
    with pytest.raises(CallError, match="expected an interpolation with at least one finite loss"):
        plot(Interpolation(np.linspace(0, 1, 2), np.full(2, np.nan), 3.0, "first", 0, PROVENANCE))

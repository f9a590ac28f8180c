"""Points and inner products along a line: packed into vectors, and parameter by parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from alidade.landscape import coordinates as coordinates_module
from alidade.landscape.coordinates import Coordinates, coordinates_named
from alidade.landscape.layout import MOST_ELEMENTS, Layout
from alidade.landscape.lines import InnerProducts, Line, line_along

ETAS = (0.0, 0.3, -0.01, 2.0)


def _lines(dtype: torch.dtype, coordinates: str, same: bool) -> tuple[Line, Line, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ConvTranspose2d(5, 7, 2), nn.Linear(7, 3)).to(dtype)
    start = {name: parameter.detach() for name, parameter in model.named_parameters()}
    base, along, now = ({name: torch.randn_like(value) for name, value in start.items()} for _ in range(3))
    system = coordinates_named(coordinates, model, start)
    ends = (system, start, base, base if same else along)
    return line_along(*ends), Line(*ends), now


@pytest.mark.parametrize("coordinates", ["raw", "relative"])
# Not in half precision: there a vector's last elements, which no full register holds, are rounded once more.
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("same", [True, False], ids=["gradient", "given"])
def test_packed_and_piecewise_agree(dtype: torch.dtype, coordinates: str, same: bool) -> None:
    packed, plain, now = _lines(dtype, coordinates, same)
    assert type(packed) is not Line
    for eta in ETAS:
        expected = {name: value.clone() for name, value in plain.point(eta).items()}
        assert all(torch.equal(value, expected[name]) for name, value in packed.point(eta).items())
        first, second = packed.inner_products(now, eta), plain.inner_products(now, eta)
        for name, ours, theirs in zip(InnerProducts._fields, first, second, strict=True):
            # Sums of some 300 products in float64, each of at most about 10: rounding 300 * 10 * 300 eps = 2e-10.
            # The rounding of the point is itself rounded where parameters are float64, and is then about 1e-31.
            assert ours == pytest.approx(
                theirs, rel=1e-6 if name == "rounding" else 1e-12, abs=2e-10 * (name != "rounding")
            )


@pytest.mark.parametrize("elements", [1, 4, 50], ids="{} at a time".format)
@pytest.mark.parametrize("coordinates", ["raw", "relative"])
def test_the_size_of_the_pieces_does_not_matter(
    coordinates: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one row of a weight is longer than a piece."""
    _, line, now = _lines(torch.float32, coordinates, same=False)
    system, names = line.system, list(line.start)

    def numbers() -> list[float]:
        norms = [system.gradient_norm(now), system.length(now), line.slope()]
        return [*norms, *(product for eta in ETAS for product in line.inner_products(now, eta))]

    def tensors() -> list[torch.Tensor]:
        components = [system.from_components(name, now[name]) for name in names]
        return [
            *components,
            *(f(n, now[n], 0.7) for f in (system.from_gradient, system.from_displacement) for n in names),
        ]

    whole, changed = numbers(), tensors()
    monkeypatch.setattr(coordinates_module, "PIECE_ELEMENTS", elements)
    # Sums of the same products in float64 in another order: 300 * 10 * 300 eps = 2e-10, as above.
    assert numbers() == pytest.approx(whole, rel=1e-12, abs=2e-10)
    assert all(map(torch.equal, tensors(), changed))


def test_all_pieces_lie_in_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinates_module, "PIECE_ELEMENTS", 8)
    tensors = {"a": torch.ones(5, 4), "b": torch.ones(30)}
    places = [(piece.values[0].data_ptr(), len(piece.values[0])) for piece in Coordinates("raw").bundles(tensors)]
    assert len({place for place, _ in places}) == 1
    assert [length for _, length in places] == [8, 8, 4, 8, 8, 8, 6]


def test_a_point_that_a_forward_pass_has_written_to_does_not_count() -> None:
    packed, plain, now = _lines(torch.float32, "raw", same=True)
    for value in packed.point(0.3).values():
        value.fill_(7.0)
    expected = plain.inner_products(now, 0.3)
    assert packed.inner_products(now, 0.3).rounding == pytest.approx(expected.rounding, rel=1e-6)


def test_the_gradient_at_the_start_has_no_distance_from_itself() -> None:
    packed, _, _ = _lines(torch.float32, "relative", same=True)
    assert packed.inner_products(packed.base, 0.0).change == 0.0


def test_many_elements_and_several_precisions_are_not_packed() -> None:
    assert Layout.fits({"a": torch.zeros(MOST_ELEMENTS)})
    assert not Layout.fits({"a": torch.zeros(MOST_ELEMENTS + 1)})
    assert not Layout.fits({"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.float64)})

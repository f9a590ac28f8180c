"""``alidade.plot``: a chart of anything measured, shown in a notebook or saved as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alidade.core.errors import CallError, WorkError
from alidade.report import theme
from alidade.report.composed import ON_THE_PAGE, composed, composed_figures

VEGA_LITE = "6.4"
_WHAT = "anything measured, a Study, a table as alidade.load gives it, or a list of Verdicts"


class Chart:
    """A chart: shows itself in a notebook, and saves itself.

    ``spec`` is its Vega-Lite specification with every colour resolved for white paper.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        complete = {**spec, "background": theme.css("paper"), "config": theme.config(legend=True)}
        self.spec: dict[str, Any] = json.loads(theme.resolve(json.dumps(complete)))

    def save(self, path: str | Path) -> Path:
        """Write the chart as .svg, .png, .pdf or .html (one file that needs no network).

        Raises:
            CallError: another extension.
            WorkError: the file cannot be written.
        """
        target = Path(path)
        if target.suffix.lower() not in _FORMATS:
            raise CallError(f"save: expected a name that ends in {', '.join(_FORMATS)}, got {target.name!r}")
        content = _FORMATS[target.suffix.lower()](self.spec)
        try:
            target.write_bytes(content)
        except OSError as error:
            raise WorkError(f"{target}: expected a file that can be written, got: {error.strerror}") from error
        return target

    def svg(self) -> str:
        """The chart as the text of an SVG."""
        return _svg(self.spec).decode()

    def _repr_html_(self) -> str:
        return self.svg()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {
            "application/vnd.vegalite.v6+json": self.spec,
            "image/svg+xml": self.svg(),
            "text/plain": "<alidade chart>",
        }


def plot(thing: Any, figure: str | None = None) -> Chart:
    """A chart of ``thing``: a measurement, a study, a table of measurements, or verdicts.

    Args:
        thing: what line_profile, loss_surface, interpolate, covariate_shift, layer_scalars, activation_statistics,
            top_eigenvalues, hessian_trace, spectral_density or a sharpness returned, a Study, a table as
            ``alidade.load`` gives it, or a list of Verdicts.
        figure: which figure of a study; None draws all of them. "loss_band" is the first section's that has it,
            "lp_norms.loss_band" that of one section.

    Raises:
        CallError: something else, or an unknown or missing figure; the message lists what can be drawn.
    """
    draw = _drawer(thing)
    if draw is None:
        raise CallError(f"plot: expected {_WHAT}, got {type(thing).__name__}")
    if figure is None:
        return Chart(draw(thing))
    if draw is not _study:
        raise CallError(f"plot: figure={figure!r} chooses among the figures of a Study, got {type(thing).__name__}")
    return Chart(_one_figure(thing, figure))


def _drawer(thing: Any) -> Callable[[Any], dict[str, Any]] | None:
    """How to draw it. Decided by class, loading only what is needed."""
    import polars as pl

    from alidade.claims.claim import Verdict
    from alidade.core.activations import ActivationChange, ActivationStatistics
    from alidade.core.curvature import Curvature, SpectralDensity, TopEigenvalues, Trace
    from alidade.core.layer_scalars import LayerScalars
    from alidade.core.records import COLUMNS, CovariateShift, LineProfile
    from alidade.core.surface import Interpolation, LossSurface
    from alidade.store import Study

    if isinstance(thing, LineProfile):
        return _profile
    if isinstance(thing, LossSurface | Interpolation):
        return _surface
    if isinstance(thing, SpectralDensity | TopEigenvalues | Trace | Curvature):
        return _curvature
    if isinstance(thing, Study):
        return _study
    if isinstance(thing, CovariateShift | LayerScalars | ActivationStatistics | ActivationChange):
        return _layers
    if isinstance(thing, pl.DataFrame) and set(COLUMNS) <= set(thing.columns):
        return _table
    if isinstance(thing, list | tuple) and thing and all(isinstance(item, Verdict) for item in thing):
        return _verdicts
    return None


def _profile(profile: Any) -> dict[str, Any]:
    from alidade.report.pictures import profile_panels

    return composed([profile_panels(profile)])


def _surface(measured: Any) -> dict[str, Any]:
    from alidade.core.surface import LossSurface
    from alidade.report.surface_pictures import SURFACE_SIZE, interpolation_panels, surface_panels

    if isinstance(measured, LossSurface):
        return composed([surface_panels(measured)], width=SURFACE_SIZE)
    return composed([interpolation_panels(measured)])


def _curvature(measured: Any) -> dict[str, Any]:
    from alidade.report.curvature_pictures import curvature_panels

    panels = curvature_panels(measured)
    if not panels:
        raise CallError(f"plot: expected a measurement that may be drawn, got status {measured.status!r}")
    return composed([panels], width=420)


def _layers(measured: Any) -> dict[str, Any]:
    from alidade.report.layer_pictures import layer_panels

    panels = layer_panels(measured)
    if not panels:
        raise CallError("plot: expected a measurement with at least one number of status 'ok', got none")
    return composed([panels[i : i + 3] for i in range(0, len(panels), 3)], width=220, spacing=170)


def _table(frame: Any) -> dict[str, Any]:
    from alidade.report.pictures import table_panels

    panels = table_panels(frame)
    if not panels:
        raise CallError("plot: expected a table with at least one number of status 'ok', got none")
    return composed([panels[i : i + 3] for i in range(0, len(panels), 3)])


def _verdicts(verdicts: Any) -> dict[str, Any]:
    from alidade.report.pictures import verdict_panels

    return composed([[panel] for panel in verdict_panels(verdicts)], width=420)


def _study(study: Any) -> dict[str, Any]:
    from alidade.report.sections import planned

    made = [plan.draw() for plan in planned(study) if plan.name not in ON_THE_PAGE]
    still = [figure for figure in made if figure is not None]
    if not still or study.frame.is_empty():
        raise CallError("plot: expected a study with measurements, got none")
    return composed_figures(still)


def _one_figure(study: Any, name: str) -> dict[str, Any]:
    from alidade.report.figures import FIGURES
    from alidade.report.sections import planned

    plans = [plan for plan in planned(study) if plan.name not in ON_THE_PAGE]
    known = dict.fromkeys([*(known for known in FIGURES if known not in ON_THE_PAGE), *(p.address for p in plans)])
    if name not in known:
        raise CallError(f"plot: expected figure to be one of {', '.join(known)}, got {name!r}")
    drawn = next((made for p in plans if name in (p.name, p.address) and (made := p.draw())), None)
    if drawn is None:
        raise CallError(f"plot: the study holds no measurements for the figure {name!r}")
    return composed_figures([drawn])


def _still(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The same chart without what follows a pointer: for pictures."""
    parts = dict(spec)
    for name in ("vconcat", "hconcat", "layer"):
        if name in parts:
            parts[name] = [_still(part) for part in parts[name] if not (name == "layer" and _follows(part))]
    return parts


def _follows(layer: Mapping[str, Any]) -> bool:
    filters = [step.get("filter") for step in layer.get("transform", [])]
    return "params" in layer or any(isinstance(test, dict) and "param" in test for test in filters)


def _svg(spec: Mapping[str, Any]) -> bytes:
    import vl_convert

    text: str = vl_convert.vegalite_to_svg(_still(spec), vl_version=VEGA_LITE)
    return text.encode()


def _png(spec: Mapping[str, Any]) -> bytes:
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(_still(spec), vl_version=VEGA_LITE, scale=2))


def _pdf(spec: Mapping[str, Any]) -> bytes:
    import vl_convert

    return bytes(vl_convert.vegalite_to_pdf(_still(spec), vl_version=VEGA_LITE))


def _html(spec: Mapping[str, Any]) -> bytes:
    import vl_convert

    text: str = vl_convert.vegalite_to_html(dict(spec), vl_version=VEGA_LITE, bundle=True)
    return text.encode()


_FORMATS: dict[str, Callable[[Mapping[str, Any]], bytes]] = {".svg": _svg, ".html": _html, ".png": _png, ".pdf": _pdf}

"""The page: a study and its verdicts as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from alidade.core.errors import WorkError
from alidade.core.spec import RunSpec, SurveySpec
from alidade.report import theme
from alidade.report.charts import without_legend
from alidade.report.figure import Figure
from alidade.report.figures import figures
from alidade.report.finding import finding, key_numbers
from alidade.report.variants import variants
from alidade.report.verdict_table import verdict_groups
from alidade.report.words import number, seeds
from alidade.store.files import write_atomically

if TYPE_CHECKING:
    from alidade.claims.claim import Verdict
    from alidade.store import Study

VEGA_LITE = "6.4"
_HERE = Path(__file__).parent
_DATA = {"digits": "scikit-learn's digits", "cifar10": "CIFAR-10"}


def write_page(path: Path, study: Study, verdicts: Sequence[Verdict]) -> Path:
    """Write ``report.html`` for a study; the same study and verdicts give the same bytes.

    Raises:
        WorkError: the study holds no measurement, or the file cannot be written.
    """
    drawn = figures(study)
    if not drawn:
        raise WorkError(f"{study.root}: expected measurements to draw, found none; run 'alidade demo' first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _render(study, verdicts, drawn).encode())
    except OSError as error:
        raise WorkError(f"{path}: expected a file that can be written, got: {error.strerror}") from error
    return path


def _render(study: Study, verdicts: Sequence[Verdict], drawn: Sequence[Figure]) -> str:
    import vl_convert
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
    own = {name: Markup((_HERE / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")}
    return environment.get_template("page.html").render(
        figures=drawn,
        finding=finding(verdicts),
        key_numbers=key_numbers(verdicts),
        groups=verdict_groups(verdicts),
        kicker=_kicker(study),
        unfinished=len(study.unfinished),
        facts=_facts(study),
        command=str(study.manifest.get("command", "")),
        runs=_runs(study),
        charts={
            "config": {**theme.config(legend=False), "aria": False},
            "panels": _panels(drawn),
            "steppers": _steppers(drawn),
        },
        light=theme.variables("light"),
        dark=theme.variables("dark"),
        style=own["page.css"],
        script=own["page.js"],
        bundle=Markup(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)),
    )


def _panels(drawn: Sequence[Figure]) -> dict[str, Mapping[str, Any]]:
    return {panel.id: without_legend(panel.spec) for figure in drawn for panel in figure.charts}


def _steppers(drawn: Sequence[Figure]) -> dict[str, Any]:
    return {figure.id: figure.stepper for figure in drawn if figure.stepper}


def _kicker(study: Study) -> list[str]:
    """What was trained, in a few words."""
    planned = [spec for spec in study.specs.values() if isinstance(spec, RunSpec)]
    own = [spec for spec in study.specs.values() if isinstance(spec, SurveySpec)]
    numbers = {spec.seed for spec in study.specs.values()} - {None}
    words = [" and ".join(_each(spec.model for spec in own))]
    if planned:
        words = [
            " and ".join(_each(_DATA.get(spec.data.name, spec.data.name) for spec in planned)),
            f"{' and '.join(_each(spec.model.conv_layers for spec in planned))} convolutional layers",
            f"{' and '.join(_each(f'{spec.steps:,}'.replace(',', ' ') for spec in planned))} steps of plain SGD",
            *filter(None, words),
        ]
    return [*words, f"{len(numbers)} seed{'s' if len(numbers) != 1 else ''}"] if numbers else words


def _facts(study: Study) -> list[tuple[str, str]]:
    """The colophon: what was run, on what, for how long."""
    machines = list(study.environments.values())
    seconds = _seconds(study.frame)
    facts = [
        ("Measured", _when(str(study.manifest.get("created", "")))),
        ("Seeds", seeds(spec.seed for spec in study.specs.values() if spec.seed is not None)),
        ("Networks", "; ".join(variant.label for variant in variants(study.specs))),
        ("Versions", _values(machines, "alidade", "python", "torch", "numpy", "polars", "scikit-learn", named=True)),
        ("Machine", _values(machines, "platform", "processor", "cores", "threads", "device")),
        ("Time", "; ".join(f"{name} {number(total)} s" for name, total in seconds)),
    ]
    return [(name, text) for name, text in facts if text]


def _values(machines: Iterable[Mapping[str, Any]], *names: str, named: bool = False) -> str:
    """Each named property of the machines, once per distinct value."""
    counted = {"cores": "{} cores", "threads": "{} thread(s) per run", "device": "on {}"}
    parts = []
    for name in names:
        found = _each(machine[name] for machine in machines if name in machine)
        form = f"{name} {{}}" if named else counted.get(name, "{}")
        parts += [form.format(" / ".join(found))] if found else []
    return ", ".join(parts)


def _each(values: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values))


def _seconds(frame: pl.DataFrame) -> list[tuple[str, float]]:
    """Total seconds by what they were spent on, summed over runs."""
    timed = frame.filter(pl.col("quantity").str.ends_with("_seconds") & pl.col("value").is_finite())
    totals = timed.group_by("quantity").agg(pl.col("value").sum()).sort("value", descending=True)
    words = totals["quantity"].str.strip_suffix("_seconds").str.replace_all("_", " ")
    return list(zip(words, totals["value"], strict=True))


def _when(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    zone = f" {moment.tzname()}" if moment.tzinfo else ""
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"


def _runs(study: Study) -> list[tuple[str, str]]:
    """Every run: its id and what it was."""
    return sorted(((run, spec.label) for run, spec in study.specs.items()), key=lambda pair: (pair[1], pair[0]))

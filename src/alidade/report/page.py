"""The page: a study and its verdicts as one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from alidade.core.errors import WorkError
from alidade.core.spec import AnyRunSpec, RunSpec, SurveySpec
from alidade.report import theme
from alidade.report.charts import without_legend
from alidade.report.figure import Figure
from alidade.report.finding import finding, key_numbers
from alidade.report.outcomes import divergence
from alidade.report.paper_backdrop import beside_the_paper
from alidade.report.paper_table import paper_rows
from alidade.report.sections import planned
from alidade.report.series import Readings
from alidade.report.theme import NORMS
from alidade.report.verdict_table import Group, verdict_groups
from alidade.report.words import listed, number, seeds
from alidade.store.files import write_atomically
from alidade.store.places import cause_of

if TYPE_CHECKING:
    from jinja2 import Template

    from alidade.claims.claim import Verdict
    from alidade.store import Study

VEGA_LITE = "6.4"
_HERE = Path(__file__).parent
_DATA = {"digits": "scikit-learn's digits", "cifar10": "CIFAR-10", "gaussian": "a Gaussian regression"}


@dataclass(frozen=True)
class Chapter:
    """An experiment in words, for the head of its section."""

    question: str
    paper: str  # where in the paper


@dataclass(frozen=True)
class Section:
    """A part of the page: the figures of one experiment and the verdicts that rest on them."""

    id: str  # the experiment; "" in a study without any
    name: str
    heading: str
    paper: str
    figures: tuple[Figure, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def groups(self) -> list[Group]:
        """The verdicts as the table writes them."""
        return verdict_groups(self.verdicts)


def write_page(
    path: Path,
    study: Study,
    verdicts: Sequence[Verdict],
    chapters: Mapping[str, Chapter] | None = None,
    plotted: Mapping[str, float] | None = None,
    library: Callable[[], str] | None = None,
) -> Path:
    """Write ``report.html`` for a study; the same study and verdicts give the same bytes.

    ``chapters`` are the experiments in words, by name; ``plotted`` are the claims' own statistics of the paper's
    plots, by claim; ``library`` hands over what ``drawing_library`` made, where a caller has it made meanwhile.

    Raises:
        WorkError: the study holds no measurement, or the file cannot be written.
    """
    sections = _sections(study, verdicts, chapters or {})
    if not any(section.figures for section in sections):
        raise WorkError(f"{study.root}: expected measurements to draw, found none; run 'alidade demo' first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        page = _render(study, verdicts, sections, plotted or {}, (library or drawing_library)())
        write_atomically(path, page.encode())
    except OSError as error:
        raise WorkError(f"{path}: expected a file that can be written, got: {cause_of(error)}") from error
    return path


def _sections(study: Study, verdicts: Sequence[Verdict], chapters: Mapping[str, Chapter]) -> list[Section]:
    """The figures by section, in order, each with its verdicts."""
    if study.frame.is_empty():
        return []
    figures: dict[str, list[Figure]] = {}
    for plan in planned(study):
        drawn = plan.draw()
        figures.setdefault(plan.section, []).extend([beside_the_paper(drawn, plan.section)] if drawn else [])
    sections = []
    for name, drawn_here in figures.items():
        short = name.replace("_", " ").capitalize()
        words = chapters.get(name, Chapter(short, ""))
        mine = tuple(verdict for verdict in verdicts if name and verdict.experiment == name)
        if drawn_here or mine:
            sections.append(Section(name, short, words.question, words.paper, tuple(drawn_here), mine))
    return sections


def drawing_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that needs no network; takes more than a second."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE))


def _render(
    study: Study,
    verdicts: Sequence[Verdict],
    sections: Sequence[Section],
    plotted: Mapping[str, float],
    library: str,
) -> str:
    from markupsafe import Markup

    own = {name: Markup((_HERE / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js")}
    drawn = [figure for section in sections for figure in section.figures]
    told = {section.id for section in sections}
    return _template().render(
        sections=sections,
        sectioned=told != {""},
        numbers={figure.id: place for place, figure in enumerate(drawn, start=1)},
        finding=finding(verdicts),
        key_numbers=key_numbers(verdicts),
        any_verdict=bool(verdicts),
        beside=paper_rows(verdicts, plotted),
        groups=verdict_groups([verdict for verdict in verdicts if verdict.experiment not in told]),
        kicker=_kicker(study),
        unfinished=len(study.unfinished),
        divergence=divergence(Readings(study)),
        troubles=study.troubles,
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
        bundle=Markup(library),
    )


def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
    return environment.get_template("page.html")


def _panels(drawn: Sequence[Figure]) -> dict[str, Mapping[str, Any]]:
    """The charts without their titles, which the page writes itself: there they wrap."""
    charts = {panel.id: without_legend(panel.spec) for figure in drawn for panel in figure.charts}
    return {id_: {name: part for name, part in spec.items() if name != "title"} for id_, spec in charts.items()}


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
            listed(_each(_DATA.get(spec.data.name, spec.data.name) for spec in planned)),
            f"{listed(_each(_network(spec) for spec in planned))} layers",
            f"{listed(_each(f'{spec.steps:,}'.replace(',', ' ') for spec in planned))} steps of plain SGD",
            *filter(None, words),
        ]
    return [*words, f"{len(numbers)} seed{'s' if len(numbers) != 1 else ''}"] if numbers else words


def _network(spec: RunSpec) -> str:
    if spec.model.kind == "deep_linear":
        return f"{spec.model.layers} linear"
    return f"{spec.model.conv_layers} convolutional"


def _facts(study: Study) -> list[tuple[str, str]]:
    """The colophon: what was run, on what, for how long."""
    machines = list(study.environments.values())
    seconds = _seconds(study.frame)
    facts = [
        ("Measured", _when(str(study.manifest.get("created", "")))),
        ("Seeds", seeds(spec.seed for spec in study.specs.values() if spec.seed is not None)),
        ("Networks", "; ".join(_networks(study.specs.values()))),
        ("Versions", _values(machines, "alidade", "python", "torch", "numpy", "polars", "scikit-learn", named=True)),
        ("Machine", _values(machines, "platform", "processor", "cores", "threads", "device")),
        ("Time", "; ".join(f"{name} {number(total)} s" for name, total in seconds)),
    ]
    return [(name, text) for name, text in facts if text]


def _networks(specs: Iterable[AnyRunSpec]) -> list[str]:
    """Norms and trainings of the user's own, each once."""
    norms = {spec.model.norm for spec in specs if isinstance(spec, RunSpec)}
    own = _each(spec.name for spec in specs if isinstance(spec, SurveySpec))
    return [*(label for norm, (_, label) in NORMS.items() if norm in norms), *sorted(own)]


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
    names = [name for name in frame["quantity"].unique() if name.endswith("_seconds")]
    timed = frame.filter(pl.col("quantity").is_in(names) & pl.col("value").is_finite())
    totals = timed.group_by("quantity").agg(pl.col("value").sum()).sort("value", descending=True)
    words = totals["quantity"].cast(pl.String).str.strip_suffix("_seconds").str.replace_all("_", " ")
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

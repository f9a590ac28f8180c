"""The table "the paper says, its plot shows, we measured": one row per claim of the paper.

What its text says stands here in words. What its plot shows is computed from the digitized curves, what we measured
comes from the verdicts of the study: no number of either is written down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alidade.report import paper_numbers as plots
from alidade.report.finding import written
from alidade.report.verdict_table import Line, verdict_groups
from alidade.report.words import listed

if TYPE_CHECKING:
    from alidade.claims.claim import Verdict


@dataclass(frozen=True)
class Said:
    """One claim of the paper: the beginnings of the ids of our claims about it, where it stands, and its words."""

    ids: tuple[str, ...]
    where: str
    says: str
    shows: Callable[[], str] | None = None  # parts end with "; "


@dataclass(frozen=True)
class Form:
    """One way in which we asked: its verdict, and the same statistic of the paper's plot ("" where it has none)."""

    line: Line
    plotted: str


@dataclass(frozen=True)
class Row:
    """One claim of the paper beside our verdicts on it, the plainest form first."""

    where: str
    says: str
    shows: tuple[str, ...]
    forms: tuple[Form, ...]

    @property
    def rest(self) -> str:
        """The verdicts of all forms but the first, counted."""
        counts = Counter(form.line.verdict for form in self.forms[1:])
        said = [f"{counts[verdict]} {verdict}" for verdict in ("supported", "refuted", "undecided") if counts[verdict]]
        return listed(said)


_NOWHERE = "not asked in the paper"

#: In the order of the paper. The longest beginning of an id decides.
SAYS: tuple[Said, ...] = (
    Said(
        ("faster_training",), "Section 1, Fig. 1a", "Networks with BatchNorm train faster.", plots.faster_training
    ),
    Said(
        ("test_accuracy",), "Appendix A, Fig. 1b",
        "Test accuracy is 83 % with BatchNorm and 80 % without; with augmentation 92 % and 88 %.",
        plots.accuracy_on_test_images,
    ),
    Said(
        ("larger_learning_rates",), "Section 2, Fig. 1a",
        "BatchNorm trains at large learning rates, where the plain network fails.", plots.larger_learning_rates,
    ),
    Said(
        ("batch_norm_steadies",), "Section 2.1, Fig. 8",
        "BatchNorm keeps the moments of activations steadier than a plain network does.", plots.batch_norm_steadies,
    ),
    Said(
        ("noisy_norm_trains",), "Section 2.1, Fig. 2",
        "With noise after BatchNorm that shifts every distribution, the network trains almost as fast as with "
        "BatchNorm and faster than without.", plots.noisy_norm_trains,
    ),
    Said(
        ("noisy_norm_moves",), "Section 2.1, Fig. 8a",
        "Its activations are less stable than even those of the plain network.", plots.noisy_norm_moves,
    ),
    Said(
        ("noise_without_norm",), "Section 2.1",
        "The same noise on the plain network prevents it from training entirely.",
    ),
    Said(
        ("covariate_shift_not_reduced",), "Section 2.2, Fig. 3a",
        "BatchNorm does not reduce internal covariate shift, and often increases it.", plots.covariate_shift,
    ),
    Said(
        ("deep_linear_shift",), "Section 2.2, Fig. 3b",
        "The plain deep linear network has almost no internal covariate shift; with BatchNorm its gradients before "
        "and after are almost uncorrelated.", plots.deep_linear_shift,
    ),
    Said(
        ("loss_band",), "Section 3, Fig. 4a",
        "Along the gradient the loss of the plain network varies over a wide range, above all early in training; "
        "with BatchNorm it hardly does. Random directions behave similarly.", plots.loss_band,
    ),
    Said(
        ("gradient_band",), "Section 3, Fig. 4b",
        "Gradients are far more predictive with BatchNorm: the difference is close to two orders of magnitude.",
        plots.gradient_band,
    ),
    Said(
        ("effective_smoothness",), "Section 3, Fig. 4c",
        "The effective β-smoothness is consistently better with BatchNorm.", plots.effective_smoothness,
    ),
    Said(
        ("lp_norms_smooth",), "Section 3.3, Fig. 12",
        "L1, L2 and L∞ normalization smooth the landscape about as much as BatchNorm.", plots.lp_norms,
    ),
    Said(
        ("lp_norms_fix_no_distribution",), "Section 3.3, Fig. 6",
        "They fix no moments of the activations, and still help.",
    ),
    Said(
        ("deep_linear_l1",), "Section 3.3, Fig. 5b",
        "On the deep linear network L1 normalization does even better than BatchNorm.", plots.deep_linear_ends,
    ),
    Said(
        ("deep_linear", "deep_linear_batch"), "Section 3.3, Fig. 5b, 10, 13",
        "On the deep linear network too every norm trains better than none, and the landscape is smoother.",
        plots.deep_linear_bands,
    ),
    Said(
        ("plateau_is", "plateau_is_edge", "plateau_is_edge_deep_linear_batch"), f"{_NOWHERE}; Fig. 4c, 10c, 12d, 13d",
        "Nothing: the curves of the effective smoothness settle on one level, without comment.", plots.plateau,
    ),
    Said(
        ("smoothness_beyond_curvature", "curvature_in_the_limit"), "Section 3, Fig. 4c, 10c",
        "The effective β-smoothness stands for the Lipschitz constant of the gradient, which bounds the Hessian.",
    ),
    Said(
        ("sharpness_above_edge", "edge_of_stability"), f"{_NOWHERE}; Fig. 4c, 10c",
        "Nothing: the edge of stability was named three years later (Cohen et al. 2021).",
    ),
    Said(
        ("outliers_",), _NOWHERE,
        "Nothing: the Hessian is not measured. BatchNorm removes its outliers, Ghorbani et al. (2019) found.",
    ),
    Said(
        ("rescaling_control",), _NOWHERE,
        "Nothing: the bands are measured in the raw weights, whose scale before a norm is free.",
    ),
    Said(
        ("plateau_looks_smooth",), _NOWHERE,
        "Nothing: smoothness is shown without the loss at which it is measured.",
    ),
    Said(
        ("theorem_4_1",), "Theorem 4.1",
        "BatchNorm lowers the gradient with respect to a layer's outputs by two further terms.",
    ),
)  # fmt: skip


def paper_rows(verdicts: Sequence[Verdict], plotted: Mapping[str, float]) -> list[Row]:
    """The table for a study: only claims that it has a verdict on.

    Args:
        verdicts: of the study.
        plotted: by claim id, the claim's own statistic of the paper's plot.
    """
    lines = {line.claim: line for group in verdict_groups(verdicts) for line in group.lines}
    forms: dict[Said, list[Form]] = {}
    for verdict in verdicts:
        said = _said(verdict.claim)
        if said:
            value = plotted.get(verdict.claim)
            form = Form(lines[verdict.claim], "" if value is None else written(verdict, value))
            forms.setdefault(said, []).append(form)
    return [
        Row(said.where, said.says, tuple(said.shows().split("; ")) if said.shows else (), tuple(_plainest(said, found)))
        for said in SAYS
        if (found := forms.get(said))
    ]


def _said(claim: str) -> Said | None:
    fitting = [(beginning, said) for said in SAYS for beginning in said.ids if claim.startswith(beginning)]
    return max(fitting, key=lambda pair: len(pair[0]), default=(None, None))[1]


def _plainest(said: Said, forms: Iterable[Form]) -> list[Form]:
    """First the form that ``said`` names in full, else the one with the shortest name; the others as they came."""
    rest = list(forms)
    first = min(rest, key=lambda form: (form.line.claim not in said.ids, len(form.line.claim)))
    return [first, *(form for form in rest if form is not first)]


def markdown(rows: Sequence[Row]) -> str:
    """The table for a document: every form of every claim, on lines of its own."""
    lines = ["| the paper says | its plot shows | we measured |", "| --- | --- | --- |"]
    for row in rows:
        measured = "<br>".join(map(_form, row.forms))
        shows = "<br>".join(row.shows) or "no figure"
        lines.append(f"| **{row.where}** {row.says} | {shows} | {measured} |")
    return "\n".join(lines) + "\n"


def _form(form: Form) -> str:
    line = form.line
    interval = f" ({line.interval})" if line.interval else ""
    same = f"; plot: {form.plotted}" if form.plotted else ""
    return f"`{line.claim}` {line.estimate}{interval}, n = {line.n}, **{line.verdict}**{same}"

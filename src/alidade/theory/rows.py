"""The table of statements: what is checked, in which form, on which networks, under which hypotheses."""

from dataclasses import dataclass

from alidade.theory import evidence
from alidade.theory.bounds import Form
from alidade.theory.evidence import Evidence
from alidade.theory.networks import (
    CONVEX,
    DENSE_EPS,
    DENSE_GENERAL,
    ENTROPY,
    GENERAL,
    GENERAL_EPS,
    QUADRATIC,
    QUADRATIC_3,
    QUADRATIC_LOW,
    Family,
)

V3: Form = "printed v3"
V5: Form = "printed v5"
CORRECTED: Form = "corrected"

BASIC = "sigma > 0, m > 1, eps = 0"
WITH_EPS = "m > 1, eps > 0"
SMALL = "sigma > 0, 1 < m <= 16, eps = 0"
FROZEN = f"{BASIC}; u, g, sigma, yhat fixed while X varies"
FROZEN_SMALL = f"{SMALL}; gradient and Hessian fixed while X varies"
PRESERVES = f"{BASIC}; H preserves relative norms (H = k I, k > 0)"
CONVEXITY = f"{FROZEN_SMALL}; H = k I, k > 0, gamma <= sigma, <g, yhat> >= 0, kappa > 0"


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    statement: str
    form: Form
    family: Family
    hypotheses: str
    evidence: Evidence
    adversarial: bool = True  # whether a share of the networks is driven towards a violation


def _still(statement: str, form: Form, family: Family, hypotheses: str, show: Evidence) -> Row:
    """A row whose sides do not move with the tail of the network, so that there is nothing to drive."""
    return Row(statement, form, family, hypotheses, show, adversarial=False)


ROWS: tuple[Row, ...] = (
    Row("Fact C.1", V3, GENERAL, BASIC, evidence.fact_c1),
    Row("Fact C.1, eps > 0", CORRECTED, GENERAL_EPS, WITH_EPS, evidence.fact_c1),
    _still("Fact C.2", V3, GENERAL, BASIC, evidence.fact_c2),
    _still("Fact C.2, eps > 0", CORRECTED, GENERAL_EPS, WITH_EPS, evidence.fact_c2),
    Row("Theorem 4.1", V3, GENERAL, f"{BASIC}; g = dL/dz", evidence.theorem_4_1(V3)),
    Row("Theorem 4.1", V5, GENERAL, f"{BASIC}; g = dL/dz", evidence.theorem_4_1(V5)),
    Row("Theorem 4.1", CORRECTED, GENERAL, f"{BASIC}; g = dL/dz", evidence.theorem_4_1(CORRECTED)),
    Row("Theorem 4.1, eps > 0", V5, GENERAL_EPS, f"{WITH_EPS}; g = dL/dz", evidence.theorem_4_1(V5)),
    Row("Theorem 4.1, eps > 0", CORRECTED, GENERAL_EPS, f"{WITH_EPS}; g = dL/dz", evidence.theorem_4_1(CORRECTED)),
    Row("Theorem 4.1, g taken at y", V5, GENERAL, f"{BASIC}; g = dL/dy without the layer", evidence.theorem_4_1_at_y),
    Row(
        "Theorem 4.1, g taken at y, gamma = sigma, beta = mean",
        V5,
        GENERAL,
        f"{BASIC}; g = dL/dy without the layer",
        evidence.theorem_4_1_at_identity,
    ),
    Row("Theorem 4.2, first form", V3, GENERAL, BASIC, evidence.theorem_4_2(V3)),
    Row("Theorem 4.2, first form", CORRECTED, GENERAL, BASIC, evidence.theorem_4_2(CORRECTED)),
    Row("Theorem 4.2, first form, eps > 0", CORRECTED, GENERAL_EPS, WITH_EPS, evidence.theorem_4_2(CORRECTED)),
    Row("Theorem 4.2, second form", V3, QUADRATIC, PRESERVES, evidence.theorem_4_2_second(V3)),
    Row("Theorem 4.2, second form", CORRECTED, QUADRATIC, PRESERVES, evidence.theorem_4_2_second(CORRECTED)),
    Row(
        "Theorem 4.2, second form, gamma <= sigma",
        V3,
        QUADRATIC_LOW,
        f"{PRESERVES}, gamma <= sigma",
        evidence.theorem_4_2_second(V3),
    ),
    Row(
        "Theorem 4.2, second form, gamma = 3 sigma",
        V3,
        QUADRATIC_3,
        f"{PRESERVES}, gamma = 3 sigma",
        evidence.theorem_4_2_second(V3),
    ),
    Row(
        "Theorem 4.2, second form, gamma = 3 sigma",
        CORRECTED,
        QUADRATIC_3,
        f"{PRESERVES}, gamma = 3 sigma",
        evidence.theorem_4_2_second(CORRECTED),
    ),
    _still("Block Hessian, every entry", V3, DENSE_GENERAL, SMALL, evidence.block_hessian(V3)),
    _still("Block Hessian, every entry", CORRECTED, DENSE_GENERAL, SMALL, evidence.block_hessian(CORRECTED)),
    _still("Block Hessian, every entry, eps > 0", CORRECTED, DENSE_EPS, WITH_EPS, evidence.block_hessian(CORRECTED)),
    Row("Block Hessian, bilinear forms", CORRECTED, GENERAL, BASIC, evidence.block_hessian_form),
    Row("Block Hessian, bilinear forms, eps > 0", CORRECTED, GENERAL_EPS, WITH_EPS, evidence.block_hessian_form),
    _still("Observation 4.3", V3, GENERAL, f"{BASIC}; beta = mean", evidence.observation_4_3),
    _still("Observation 4.3, eps > 0", CORRECTED, GENERAL_EPS, f"{WITH_EPS}; beta = mean", evidence.observation_4_3),
    Row("Theorem 4.4", V3, GENERAL, FROZEN, evidence.theorem_4_4(V3)),
    Row("Theorem 4.4", CORRECTED, GENERAL, FROZEN, evidence.theorem_4_4(CORRECTED)),
    Row(
        "Theorem 4.4, eps > 0",
        CORRECTED,
        GENERAL_EPS,
        FROZEN.replace(BASIC, WITH_EPS),
        evidence.theorem_4_4(CORRECTED),
    ),
    Row("Theorem 4.4, eq. (17)", V3, GENERAL, FROZEN, evidence.equation_17),
    _still(
        "Theorem 4.4, literal reading",
        V3,
        ENTROPY,
        f"{BASIC}; sigma moves with X",
        evidence.theorem_4_4_literal,
    ),
    _still("Theorem C.1", V3, CONVEX, CONVEXITY, evidence.theorem_c1(separation=True)),
    _still("Theorem C.1, without its separation", V3, CONVEX, CONVEXITY, evidence.theorem_c1(separation=False)),
    _still("Theorem C.1, eq. (58)", V3, DENSE_GENERAL, FROZEN_SMALL, evidence.equation_58(V3)),
    _still("Theorem C.1, eq. (58), H = k I", V3, CONVEX, f"{FROZEN_SMALL}; H = k I", evidence.equation_58_before),
    _still("Theorem C.1, eq. (58)", CORRECTED, DENSE_GENERAL, FROZEN_SMALL, evidence.equation_58_both_sides(CORRECTED)),
    _still("Lemma 4.5", V3, GENERAL, "<W0, W*> > 0", evidence.lemma_4_5(V3)),
    _still("Lemma 4.5", CORRECTED, GENERAL, "<W0, W*> > 0", evidence.lemma_4_5(CORRECTED)),
    _still("Lemma 4.5, unit by unit", CORRECTED, GENERAL, "<W0, W*> > 0", evidence.lemma_4_5_per_unit),
    _still("Scale invariance, output", V3, GENERAL, f"{BASIC}; a > 0", evidence.invariant_output),
    _still("Scale invariance, <w, grad> = 0", V3, GENERAL, BASIC, evidence.orthogonal(V3)),
    _still("Scale invariance, <w, grad>, eps > 0", CORRECTED, GENERAL_EPS, WITH_EPS, evidence.orthogonal(CORRECTED)),
    _still("Scale invariance, grad(aW) = grad(W)/a", CORRECTED, GENERAL, f"{BASIC}; a > 0", evidence.inverse_gradient),
    _still(
        "Scale invariance, grad(aW) = grad(W)/a, eps > 0",
        CORRECTED,
        GENERAL_EPS,
        f"{WITH_EPS}, eps / a^2 on the right; a > 0",
        evidence.inverse_gradient,
    ),
    _still("lp Jacobian, p = 1", CORRECTED, GENERAL, "no y_b = 0", evidence.lp_jacobian(1)),
    _still("lp Jacobian, p = 2", CORRECTED, GENERAL, "y not 0", evidence.lp_jacobian(2)),
    _still("lp Jacobian, p = inf", CORRECTED, GENERAL, "one largest abs(y)", evidence.lp_jacobian(float("inf"))),
)

"""The theorems of Santurkar et al. (2018), executable: as printed and as they hold.

Every statement is a pure function over a batch of instances that returns a `Bound`, which unpacks as
`lhs, rhs, slack`. `check_all` puts all of them to thousands of random and adversarial networks.
"""

from alidade.theory.bounds import STATUSES, TOLERANCE, Bound, Form, Kind
from alidade.theory.checks import StatementCheck, check_all, to_json
from alidade.theory.counterexamples import COUNTEREXAMPLES, Counterexample
from alidade.theory.curvature import block_hessian, block_hessian_form, theorem_4_2, theorem_4_2_second
from alidade.theory.gradients import fact_c1, fact_c2, lp_jacobian, observation_4_3, theorem_4_1
from alidade.theory.invariance import (
    scale_invariance_gradient,
    scale_invariance_orthogonality,
    scale_invariance_output,
)
from alidade.theory.layers import LipschitzTerms, layer_theorem_4_1_terms, theorem_4_1_terms
from alidade.theory.minimax import equation_58, largest_weight_form, theorem_c1
from alidade.theory.normalization import Moments, batch_norm, lp_norm, moments, project
from alidade.theory.weights import (
    equation_17,
    largest_weight_gradient,
    lemma_4_5,
    lemma_4_5_per_unit,
    theorem_4_4,
    theorem_4_4_literal,
)

__all__ = [
    "COUNTEREXAMPLES",
    "STATUSES",
    "TOLERANCE",
    "Bound",
    "Counterexample",
    "Form",
    "Kind",
    "LipschitzTerms",
    "Moments",
    "StatementCheck",
    "batch_norm",
    "block_hessian",
    "block_hessian_form",
    "check_all",
    "equation_17",
    "equation_58",
    "fact_c1",
    "fact_c2",
    "largest_weight_form",
    "largest_weight_gradient",
    "layer_theorem_4_1_terms",
    "lemma_4_5",
    "lemma_4_5_per_unit",
    "lp_jacobian",
    "lp_norm",
    "moments",
    "observation_4_3",
    "project",
    "scale_invariance_gradient",
    "scale_invariance_orthogonality",
    "scale_invariance_output",
    "theorem_4_1",
    "theorem_4_1_terms",
    "theorem_4_2",
    "theorem_4_2_second",
    "theorem_4_4",
    "theorem_4_4_literal",
    "theorem_c1",
    "to_json",
]

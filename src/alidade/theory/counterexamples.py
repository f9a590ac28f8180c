"""The smallest counterexample of each statement that fails, in exact numbers that a reader can check by hand.

The layer has gamma = ratio * sigma and beta = 0, so that its output is z = ratio * (y - mean(y)) and stays rational
where sigma is not. At m = 2 the projector P is 0 and with it every gradient through the layer; statements that
survive there need m = 3.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from alidade.theory.bounds import Form


@dataclass(frozen=True)
class Counterexample:
    """One instance at which lhs <= rhs (or lhs = rhs) is printed and lhs > rhs is true."""

    statement: str  # as in the table of `check_all`
    form: Form
    claim: str  # the printed relation
    y: tuple[Fraction, ...]  # (m,) what goes into the layer
    ratio: Fraction  # gamma / sigma
    loss: str  # L in z0, z1, ...
    lhs: str  # exact, in the notation of sympy
    rhs: str  # exact; where a maximum stands on the right, an upper bound of it
    note: str = ""
    matrices: Mapping[str, tuple[tuple[Fraction, ...], ...]] = field(default_factory=dict)  # X, exactly


def _numbers(*texts: str) -> tuple[Fraction, ...]:
    return tuple(Fraction(text) for text in texts)


PAIR = _numbers("-1", "1")
TRIPLE = _numbers("-1", "0", "1")

COUNTEREXAMPLES: tuple[Counterexample, ...] = (
    Counterexample(
        "Theorem 4.1",
        "printed v3",
        "norm(u)^2 <= ratio^2 (norm(g)^2 - <1,g>^2/m - <g,yhat>^2/sqrt(m))",
        PAIR,
        Fraction(1),
        "(z0**2 + z1**2)/2",
        lhs="0",
        rhs="2 - 2*sqrt(2)",
        note="g = (-1, 1) is yhat itself, so u = 0; the right side is negative.",
    ),
    Counterexample(
        "Theorem 4.1, g taken at y",
        "printed v5",
        "norm(u)^2 <= ratio^2 (norm(g)^2 - <1,g>^2/m - <g,yhat>^2/m), g the gradient of L at y",
        TRIPLE,
        Fraction(2),
        "z2**2/2",
        lhs="8/3",
        rhs="2/3",
        note="The layer doubles y, and the gradient at z = 2y is (0, 0, 2), at y only (0, 0, 1).",
    ),
    Counterexample(
        "Theorem 4.2, second form, gamma = 3 sigma",
        "printed v3",
        "u'Hhat u <= ratio^2 (g'H g - <g,yhat> norm(u)^2/(m gamma))",
        TRIPLE,
        Fraction(3),
        "((z0 + 4)**2 + (z1 - 2)**2 + (z2 - 2)**2)/2",
        lhs="486",
        rhs="54",
        note="H = I, g = (1, -2, 1) is orthogonal to 1 and yhat, u = 3 g, u'Hhat u = 9 norm(u)^2.",
    ),
    Counterexample(
        "Theorem 4.4",
        "printed v3",
        "lambda^2 norm(u)^2 <= ratio^2 (G^2 - m mean(g)^2 - lambda^2 <g,yhat>^2), G = lambda^2 norm(g)^2, lambda = 1",
        PAIR,
        Fraction(1),
        "(z0**2 + z1**2)/4",
        lhs="0",
        rhs="-3/4",
        note="G = 1/2 is squared again, to 1/4, and <g, yhat>^2 = 1 is not divided by m.",
    ),
    Counterexample(
        "Theorem 4.4, eq. (17)",
        "printed v3",
        "lambda^2 norm(u)^2 <= ratio^2 (G - lambda^2 m mean(g)^2 - lambda^2 <g,yhat>^2/sqrt(m)), lambda = 1",
        PAIR,
        Fraction(1),
        "(z0**2 + z1**2)/2",
        lhs="0",
        rhs="2 - 2*sqrt(2)",
        note="That of Theorem 4.1.",
    ),
    Counterexample(
        "Theorem 4.4, literal reading",
        "printed v3",
        "norm(grad_w Lhat)^2 <= ratio^2 G^2, G = max norm(grad_w L)^2 over norm(X) <= sqrt(6), w = (1, 0)",
        TRIPLE,
        Fraction(1),
        "((z0 + 2)**2 + (z1 - 2)**2 + z2**2)/2",
        lhs="360000",
        rhs="(84 + 48*sqrt(3))**2",
        note="gamma = sigma at X = (y, b), b = (1, -2, 1); X = (y/100, b) has the same norm and 36/t^2 at t = 1/100.",
        matrices={"X": (_numbers("-1/100", "1"), _numbers("0", "-2"), _numbers("1/100", "1"))},
    ),
    Counterexample(
        "Theorem C.1, eq. (58)",
        "printed v3",
        "max over norm(X) <= 1 of (X'u)'(X'Hhat X)(X'u) = u'Hhat u",
        TRIPLE,
        Fraction(1),
        "((z0 + 2)**2 + (z1 - 2)**2 + z2**2)/2",
        lhs="81/8",
        rhs="6",
        note="X = (1, -1, 0)'/sqrt(2); the matrix given is sqrt(2) X.",
        matrices={"X": (_numbers("1"), _numbers("-1"), _numbers("0"))},
    ),
    Counterexample(
        "Theorem C.1",
        "printed v3",
        "max (X'u)'(X'Hhat X)(X'u) <= max (X'g)'(X'H X)(X'g) - (g'H g - u'Hhat u) over norm(X) <= 1",
        _numbers("-1/8", "0", "1/8"),
        Fraction(1, 2),
        "((z0 + 17/16)**2 + (z1 - 2)**2 + (z2 + 15/16)**2)/2",
        lhs="891/128",
        rhs="3/8",
        note="H = I, so the vanilla maximum is norm(g)^2 = 6; the matrix given is sqrt(2) X.",
        matrices={"X": (_numbers("1"), _numbers("-1"), _numbers("0"))},
    ),
    Counterexample(
        "Theorem C.1, without its separation",
        "printed v3",
        "max (X'u)'(X'Hhat X)(X'u) < max (X'g)'(X'H X)(X'g) over norm(X) <= 1",
        _numbers("-1/8", "0", "1/8"),
        Fraction(1, 2),
        "((z0 + 17/16)**2 + (z1 - 2)**2 + (z2 + 15/16)**2)/2",
        lhs="891/128",
        rhs="6",
        note="The same numbers: sigma^2 = 1/96 is small enough for 891/128 = 6.96 to pass 6.",
        matrices={"X": (_numbers("1"), _numbers("-1"), _numbers("0"))},
    ),
)

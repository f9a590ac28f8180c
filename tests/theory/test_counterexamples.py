"""Every counterexample, in exact arithmetic: naive transcriptions of what is printed, differentiated by sympy."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import sympy as sp

from alidade.theory import COUNTEREXAMPLES, Counterexample

from .test_verdicts import FAILING


@dataclass(frozen=True)
class Exact:
    """Both networks of a counterexample at its point."""

    m: int
    yhat: sp.Matrix
    ratio: sp.Rational
    gamma: sp.Expr
    u: sp.Matrix
    g: sp.Matrix
    g_at_y: sp.Matrix
    Hhat: sp.Matrix
    H: sp.Matrix


def normalized(y: sp.Matrix, gamma: sp.Expr) -> sp.Matrix:
    m = len(y)
    mean = sum(y) / m
    return gamma * (y - mean * sp.ones(m, 1)) / sp.sqrt(sum((v - mean) ** 2 for v in y) / m)


def measure(case: Counterexample) -> Exact:
    m = len(case.y)
    point = sp.Matrix([sp.Rational(v.numerator, v.denominator) for v in case.y])
    ratio = sp.Rational(case.ratio.numerator, case.ratio.denominator)
    mean = sum(point) / m
    sigma = sp.sqrt(sum((v - mean) ** 2 for v in point) / m)
    ys, zs = sp.Matrix(sp.symbols(f"y:{m}")), sp.Matrix(sp.symbols(f"z:{m}"))
    L = sp.sympify(case.loss)
    z = normalized(ys, ratio * sigma)
    at_y = dict(zip(ys, point, strict=True))
    at_z = dict(zip(zs, z.subs(at_y), strict=True))
    Lhat = L.subs(dict(zip(zs, z, strict=True)), simultaneous=True)
    slope, curve = sp.Matrix([L]).jacobian(zs).T, sp.hessian(L, list(zs))
    u = sp.Matrix([Lhat]).jacobian(ys).T.subs(at_y)
    return Exact(
        m,
        (point - mean * sp.ones(m, 1)) / sigma,
        ratio,
        ratio * sigma,
        u.applyfunc(sp.nsimplify).applyfunc(sp.simplify),
        slope.subs(at_z),
        slope.subs(dict(zip(zs, point, strict=True))),
        sp.hessian(Lhat, list(ys)).subs(at_y).applyfunc(sp.simplify),
        curve.subs(at_z),
    )


def square(v: sp.Matrix) -> sp.Expr:
    return (v.T * v)[0]


def inner(a: sp.Matrix, b: sp.Matrix) -> sp.Expr:
    return (a.T * b)[0]


def theorem_4_1(e: Exact, g: sp.Matrix, weight: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    return square(e.u), e.ratio**2 * (square(g) - sum(g) ** 2 / e.m - weight * inner(g, e.yhat) ** 2)


def second_form(e: Exact) -> tuple[sp.Expr, sp.Expr]:
    right = inner(e.g, e.H * e.g) - inner(e.g, e.yhat) * square(e.u) / (e.m * e.gamma)
    return inner(e.u, e.Hhat * e.u), e.ratio**2 * right


def theorem_4_4(e: Exact) -> tuple[sp.Expr, sp.Expr]:
    G = square(e.g)  # lambda = 1
    return square(e.u), e.ratio**2 * (G**2 - e.m * (sum(e.g) / e.m) ** 2 - inner(e.g, e.yhat) ** 2)


def literal(case: Counterexample, e: Exact) -> tuple[sp.Expr, sp.Expr]:
    """The gradient with respect to w at the given X, by differentiating L(BN(X w)); G by the triangle inequality."""
    X = matrix(case)
    w = sp.Matrix(sp.symbols("w:2"))
    loss = sp.sympify(case.loss)
    z = normalized(X * w, e.gamma)
    Lhat = loss.subs(dict(zip(sp.symbols(f"z:{e.m}"), z, strict=True)), simultaneous=True)
    gradient = sp.Matrix([Lhat]).jacobian(w).T.subs(dict(zip(w, (1, 0), strict=True)))
    assert largest_singular_value_squared(X) == 6  # norm(X) <= sqrt(6), as for the nominal X = (y, b)
    # Without the layer: norm(X'(X w - t)) <= norm(X) (norm(X) norm(w) + norm(t)), t the target (-2, 2, 0).
    G = sp.expand(6 * (sp.sqrt(6) + sp.sqrt(8)) ** 2)
    return sp.simplify(square(gradient)), e.ratio**2 * G**2


def largest_singular_value_squared(X: sp.Matrix) -> sp.Expr:
    return max((X.T * X).eigenvals())


def matrix(case: Counterexample) -> sp.Matrix:
    return sp.Matrix([[sp.Rational(v.numerator, v.denominator) for v in row] for row in case.matrices["X"]])


def weight_form(case: Counterexample, e: Exact) -> sp.Expr:
    X = matrix(case) / sp.sqrt(2)
    assert largest_singular_value_squared(X) == 1
    at_w = X.T * e.u
    return sp.simplify(inner(at_w, (X.T * e.Hhat * X) * at_w))


def both_sides(case: Counterexample) -> tuple[sp.Expr, sp.Expr]:
    e = measure(case)
    root = 1 / sp.sqrt(e.m)
    after, before = inner(e.u, e.Hhat * e.u), inner(e.g, e.H * e.g)
    match case.statement:
        case "Theorem 4.1" | "Theorem 4.4, eq. (17)":  # at lambda = 1 the same line
            return theorem_4_1(e, e.g, root)
        case "Theorem 4.1, g taken at y":
            return theorem_4_1(e, e.g_at_y, sp.Rational(1, e.m))
        case "Theorem 4.2, second form, gamma = 3 sigma":
            assert sp.eye(e.m) == e.H
            return second_form(e)
        case "Theorem 4.4":
            return theorem_4_4(e)
        case "Theorem 4.4, literal reading":
            return literal(case, e)
        case "Theorem C.1, eq. (58)":
            return weight_form(case, e), after
    assert sp.eye(e.m) == e.H  # so that the maximum before normalization is norm(g)^2
    assert inner(e.g, e.yhat) >= 0
    assert before - after > 0
    separation = 0 if "without" in case.statement else before - after
    return weight_form(case, e), square(e.g) - separation


@pytest.mark.parametrize("case", COUNTEREXAMPLES, ids=lambda case: f"{case.statement} [{case.form}]")
def test_the_numbers_are_exact_and_break_the_statement(case: Counterexample) -> None:
    lhs, rhs = both_sides(case)
    assert sp.simplify(lhs - sp.sympify(case.lhs)) == 0
    assert sp.simplify(rhs - sp.sympify(case.rhs)) == 0
    assert sp.sympify(case.lhs) > sp.sympify(case.rhs)


def test_every_failing_statement_has_one() -> None:
    # The second form of Theorem 4.2 fails at gamma = 3 sigma; over all gamma that is the same counterexample.
    covered = {(case.statement, case.form) for case in COUNTEREXAMPLES}
    assert covered == FAILING - {("Theorem 4.2, second form", "printed v3")}


def test_two_samples_leave_no_gradient() -> None:
    """Why a counterexample with anything on the left needs m = 3: at m = 2 the projector is 0."""
    a, b, g0, g1 = sp.symbols("a b g0 g1", real=True)
    y = sp.Matrix([a, b])
    assert (normalized(y, sp.Integer(1)).jacobian(y).T * sp.Matrix([g0, g1])).applyfunc(sp.simplify) == sp.zeros(2, 1)

"""The identities proved symbolically for small m: y, g and H are symbols, the layer is differentiated by sympy.

The loss is replaced by its second-order expansion at z, g'(z - z0) + (z - z0)'H(z - z0) / 2, which has any given
gradient and Hessian there; both sides of an identity depend on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import sympy as sp


@dataclass(frozen=True)
class Symbols:
    m: int
    y: sp.Matrix
    g: sp.Matrix
    H: sp.Matrix
    gamma: sp.Symbol
    eps: sp.Symbol
    s: sp.Symbol  # stands for sqrt(var + eps)
    variance: sp.Expr

    def is_zero(self, expression: sp.Expr) -> bool:
        """Zero as a rational function in which s^2 = var + eps."""
        numerator = sp.numer(sp.together(expression.replace(self._is_root, self._in_s)))
        return sp.rem(sp.expand(numerator), sp.expand(self.s**2 - self.variance), self.s).expand() == 0

    def _is_root(self, part: sp.Expr) -> bool:
        return part.is_Pow and not part.exp.is_integer and bool(part.base.free_symbols)

    def _in_s(self, root: sp.Expr) -> sp.Expr:
        """A half-integer power of c (var + eps), c a number that sympy has taken out."""
        number = sp.cancel(root.base / self.variance)
        assert number.is_number
        return number**root.exp * self.s ** (2 * root.exp)


@cache
def symbols(m: int, with_eps: bool) -> Symbols:
    y, g = (sp.Matrix(sp.symbols(f"{name}:{m}", real=True)) for name in "yg")
    H = sp.Matrix(m, m, lambda i, j: sp.Symbol(f"h{min(i, j)}{max(i, j)}", real=True))
    gamma, s = sp.symbols("gamma s", positive=True)
    eps = sp.Symbol("eps", positive=True) if with_eps else sp.Integer(0)
    mean = sum(y) / m
    return Symbols(m, y, g, H, gamma, eps, s, sp.expand(sum((v - mean) ** 2 for v in y) / m + eps))


def layer(case: Symbols) -> sp.Matrix:
    """z - beta as a function of y."""
    mean = sum(case.y) / case.m
    return case.gamma * (case.y - mean * sp.ones(case.m, 1)) / sp.sqrt(case.variance)


def derivatives(case: Symbols) -> tuple[sp.Matrix, sp.Matrix]:
    """u and Hhat by the chain rule on sympy's own derivatives of the layer."""
    z = layer(case)
    J = z.jacobian(case.y)
    u = J.T * case.g
    second = sp.Matrix(
        case.m, case.m, lambda i, j: sum(case.g[b] * z[b].diff(case.y[i], case.y[j]) for b in range(case.m))
    )
    return u, J.T * case.H * J + second


def formula(case: Symbols) -> tuple[sp.Matrix, sp.Matrix, sp.Expr, sp.Matrix]:
    """yhat, Q, <g, yhat> and Q g with s as a symbol."""
    mean = sum(case.y) / case.m
    yhat = (case.y - mean * sp.ones(case.m, 1)) / case.s
    Q = sp.eye(case.m) - sp.ones(case.m, case.m) / case.m - yhat * yhat.T / case.m
    return yhat, Q, (case.g.T * yhat)[0], Q * case.g


CASES = [(2, False), (3, False), (3, True)]


@pytest.mark.parametrize(("m", "with_eps"), CASES)
def test_facts_c1_and_c2(m: int, with_eps: bool) -> None:
    case = symbols(m, with_eps)
    _, Q, _, Qg = formula(case)
    u, _ = derivatives(case)
    jacobian = layer(case).jacobian(case.y)
    assert all(case.is_zero(u[b] - case.gamma / case.s * Qg[b]) for b in range(m))
    assert all(case.is_zero(jacobian[i] - (case.gamma / case.s * Q)[i]) for i in range(m * m))


@pytest.mark.parametrize(("m", "with_eps"), CASES)
def test_theorem_4_1_is_an_identity(m: int, with_eps: bool) -> None:
    case = symbols(m, with_eps)
    yhat, _, inner, _ = formula(case)
    u, _ = derivatives(case)
    q = (yhat.T * yhat)[0] / m
    right = (case.gamma / case.s) ** 2 * ((case.g.T * case.g)[0] - sum(case.g) ** 2 / m - (2 - q) * inner**2 / m)
    assert case.is_zero((u.T * u)[0] - right)
    wrong = (case.gamma / case.s) ** 2 * ((case.g.T * case.g)[0] - sum(case.g) ** 2 / m - (3 - q) * inner**2 / m)
    assert not case.is_zero((u.T * u)[0] - wrong)


@pytest.mark.parametrize(("m", "with_eps"), CASES)
def test_the_block_hessian(m: int, with_eps: bool) -> None:
    case = symbols(m, with_eps)
    yhat, Q, inner, Qg = formula(case)
    _, Hhat = derivatives(case)
    pull = case.gamma / (m * case.s**2)
    right = (case.gamma / case.s) ** 2 * Q * case.H * Q - pull * (Qg * yhat.T + yhat * Qg.T + inner * Q)
    assert all(case.is_zero(Hhat[i] - right[i]) for i in range(m * m))


def test_theorem_4_2_follows_from_the_block_hessian() -> None:
    """u'Hhat u with u = (gamma / s) Q g, for P and for Q, from Q's own algebra: Q yhat = (1 - q) yhat, 1'Q = 0."""
    case = symbols(3, True)
    yhat, Q, inner, Qg = formula(case)
    q = (yhat.T * yhat)[0] / 3
    u = case.gamma / case.s * Qg
    pull, Qu, size = case.gamma / (3 * case.s**2), Q * u, (u.T * u)[0]
    left = -pull * (u.T * (Qg * yhat.T + yhat * Qg.T + inner * Q) * u)[0]
    right = -pull * inner * ((3 - 2 * q) * size - (yhat.T * u)[0] ** 2 / 3)
    assert case.is_zero(left - right)
    assert case.is_zero((Q * yhat - (1 - q) * yhat)[0])
    assert case.is_zero(sum(Qu))


def test_lemma_4_5_and_its_ray() -> None:
    start, optimum = (sp.Matrix(sp.symbols(f"{name}:4", real=True)) for name in "ab")
    size, inner = (optimum.T * optimum)[0], (optimum.T * start)[0]
    ray = start - inner / size * optimum
    apart = start - optimum
    assert sp.simplify((ray.T * ray)[0] - (apart.T * apart)[0] + (size - inner) ** 2 / size) == 0


def test_the_frozen_theorem_4_4_follows_from_theorem_4_1() -> None:
    """The rank-one input reaches lambda^2 norm(v)^2, and Cauchy-Schwarz allows no more."""
    v = sp.Matrix(sp.symbols("v:3", real=True))
    radius, size = sp.symbols("lambda n", positive=True)
    X = radius * v / size
    assert sp.expand(((X.T * v)[0] ** 2).subs(size, sp.sqrt((v.T * v)[0])) - radius**2 * (v.T * v)[0]).simplify() == 0


@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_the_lp_jacobians(p: str) -> None:
    y = sp.Matrix(sp.symbols("y:3", positive=True))  # signs are those of y itself
    g = sp.Matrix(sp.symbols("g:3", real=True))
    m, mean = 3, sum(y) / 3
    s = {"1": sum(y) / m, "2": sp.sqrt(sum(v**2 for v in y) / m), "inf": y[2]}[p]
    slope = {"1": sp.ones(3, 1) / m, "2": y / (m * s), "inf": sp.Matrix([0, 0, 1])}[p]
    z = (y - mean * sp.ones(3, 1)) / s
    u = z.jacobian(y).T * g
    right = (g - sum(g) / m * sp.ones(3, 1) - slope * (z.T * g)[0]) / s
    assert (u - right).applyfunc(sp.simplify) == sp.zeros(3, 1)

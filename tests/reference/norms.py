"""Naive twins of the normalization layers: plain Python, one loop per sentence of the definition."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

Floats = Sequence[float]


def lp_scale(y: Floats, p: float) -> float:
    """The average lp norm of one unit's samples, before the mean is subtracted."""
    if p == 1:
        return math.fsum(abs(value) for value in y) / len(y)
    if p == 2:
        return math.sqrt(math.fsum(value * value for value in y) / len(y))
    return max(abs(value) for value in y)


def lp_norm(y: Floats, p: float, gamma: float, beta: float, eps: float) -> list[float]:
    """gamma (y - mean) / sqrt(scale^2 + eps) + beta, for one unit."""
    mean = math.fsum(y) / len(y)
    scale = math.sqrt(lp_scale(y, p) ** 2 + eps)
    return [gamma * (value - mean) / scale + beta for value in y]


def lp_backward(y: Floats, g: Floats, p: float, gamma: float) -> list[float]:
    """The paper's layer (eps = 0): (gamma / s) [g - mean(g) 1 - (ds/dy) <c, g>] with c = (y - mean) / s."""
    m, s = len(y), lp_scale(y, p)
    mean, mean_g = math.fsum(y) / m, math.fsum(g) / m
    inner = math.fsum((value - mean) / s * gradient for value, gradient in zip(y, g, strict=True))
    largest = max(range(m), key=lambda i: abs(y[i]))
    slopes = []
    for i, value in enumerate(y):
        sign = (value > 0) - (value < 0)
        slopes.append(sign / m if p == 1 else value / (m * s) if p == 2 else sign * (i == largest))
    return [gamma / s * (gradient - mean_g - slope * inner) for gradient, slope in zip(g, slopes, strict=True)]


def algorithm_1(a: float, units: int, samples: int, draw: random.Random) -> list[list[float]]:
    """Algorithm 1 on activations that are all ``a``, with the paper's constants: one list of samples per unit."""
    noisy = []
    for _ in range(units):
        mu, sigma = draw.uniform(-0.5, 0.5), draw.uniform(1, 1.25)
        row = []
        for _ in range(samples):
            m, s = draw.uniform(mu - 0.1, mu + 0.1), draw.gauss(sigma, 0.1)
            row.append(s * a + m)
        noisy.append(row)
    return noisy

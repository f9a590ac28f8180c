"""Colours and type of every chart. A chart names its colours as CSS variables; an export puts their values.

The hues are Okabe and Ito's, darkened on white and lightened on black until each reads at 4.5 : 1 as text.
"""

from __future__ import annotations

import re
from typing import Any, Literal

Mode = Literal["light", "dark"]

#: Every colour by name: (light, dark).
COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#fdfcf9", "#13151a"),
    "card": ("#f5f3ed", "#1b1e25"),
    "ink": ("#1c1e22", "#eceae4"),
    "ink-soft": ("#585d66", "#a7adb8"),
    "rule": ("#dedad0", "#343943"),
    "grid": ("#ebe8e0", "#272b33"),
    "norm-none": ("#b8430d", "#f5936a"),
    "norm-batch": ("#11549f", "#6fb4f5"),
    "norm-noisy": ("#0b7459", "#72dcba"),
    "norm-noise": ("#7a4b32", "#cfa48a"),
    "norm-l1": ("#98487c", "#e09cc6"),
    "norm-l2": ("#846500", "#e3c14f"),
    "norm-linf": ("#46700f", "#a5d36c"),
    "norm-layer": ("#5a54b5", "#aaa5f5"),
    "norm-group": ("#0f6f86", "#6fcbe0"),
    "norm-rms": ("#55606e", "#a9b6c6"),
    "yes": ("#0b7459", "#72dcba"),
    "no": ("#b8430d", "#f5936a"),
    "open": ("#6a6f78", "#a7adb8"),
}

#: The colour and the name of each normalization layer, in the order in which charts list them.
NORMS: dict[str, tuple[str, str]] = {
    "none": ("norm-none", "No norm"),
    "batch": ("norm-batch", "BatchNorm"),
    "noisy": ("norm-noisy", "Noisy BatchNorm"),
    "noise": ("norm-noise", "Noise without a norm"),
    "l1": ("norm-l1", "L1 norm"),
    "l2": ("norm-l2", "L2 norm"),
    "linf": ("norm-linf", "L∞ norm"),
    "layer": ("norm-layer", "LayerNorm"),
    "group": ("norm-group", "GroupNorm"),
    "rms": ("norm-rms", "RMSNorm"),
}
ALL_COLOURS = ("norm-batch", "norm-none", "norm-noisy", "norm-l1", "norm-l2", "norm-layer")
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (5, 3), (2, 2), (7, 2, 2, 2))

SANS = '"Helvetica Neue", Helvetica, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif'


def css(name: str) -> str:
    """The colour ``name`` as a chart writes it.

    >>> css("ink")
    'var(--ink)'
    """
    if name not in COLOURS:
        raise KeyError(name)
    return f"var(--{name})"


def variables(mode: Mode) -> str:
    """Declarations of all colours, for a style sheet."""
    column = 0 if mode == "light" else 1
    return " ".join(f"--{name}: {pair[column]};" for name, pair in COLOURS.items())


def resolve(text: str, mode: Mode = "light") -> str:
    """``text`` (a chart as JSON) with each colour's name replaced by its value.

    >>> resolve('"var(--ink)"')
    '"#1c1e22"'
    """
    column = 0 if mode == "light" else 1
    return re.sub(r"var\(--([a-z0-9-]+)\)", lambda match: COLOURS[match[1]][column], text)


def config(legend: bool) -> dict[str, Any]:
    """Vega-Lite configuration: quiet axes, no frame; on the page the legend is HTML above the figure."""
    text = {"labelColor": css("ink-soft"), "titleColor": css("ink-soft"), "labelFontSize": 11.5, "titleFontSize": 11.5}
    return {
        "background": "transparent",
        "padding": 18 if legend else {"left": 0, "right": 6, "top": 0, "bottom": 0},
        "font": SANS,
        "view": {"stroke": None},
        "axis": {
            **text,
            "titleFontWeight": "normal", "labelFontWeight": "normal", "domain": False, "ticks": False,
            "gridColor": css("grid"), "gridWidth": 1, "labelPadding": 5, "titlePadding": 7,
        },
        "axisX": {"labelFlush": True, "grid": False, "domain": True, "domainColor": css("rule"), "titleAlign": "right"},
        "title": {
            "anchor": "start", "frame": "bounds", "offset": 11, "fontSize": 13.5, "fontWeight": 600,
            "color": css("ink"), "subtitleColor": css("ink-soft"), "subtitleFont": SANS,
            "subtitleFontSize": 11.5, "subtitlePadding": 4,
        },
        "legend": {"disable": True} if not legend else {
            "orient": "top", "title": None, "labelColor": css("ink"), "labelFontSize": 12, "symbolStrokeWidth": 3,
            "symbolType": "stroke", "symbolSize": 160, "symbolOpacity": 1, "labelLimit": 400,
        },
        "line": {"strokeWidth": 2, "strokeCap": "round", "strokeJoin": "round"},
        "point": {"filled": True},
        "text": {"color": css("ink-soft"), "fontSize": 11.5},
        "concat": {"spacing": 28},
    }  # fmt: skip

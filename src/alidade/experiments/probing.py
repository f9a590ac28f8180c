"""The probes of the paper's figures, at the cadence of a scale."""

from __future__ import annotations

from alidade.claims.quantities import RELATIVE_STEPS, paper_step_sizes
from alidade.claims.spectra import CLASSES
from alidade.core.probes import (
    ActivationsProbe,
    AnyProbe,
    CovariateShiftProbe,
    CurvatureProbe,
    EvaluationProbe,
    LineProfileProbe,
    RescalingProbe,
    TheoremProbe,
)
from alidade.core.schedule import Every
from alidade.experiments.experiment import (
    AnyNetwork,
    LinearNetwork,
    Settings,
    linear_size_of,
    size_of,
)

#: Layers whose activations the paper draws: Fig. 1c, 2, 6 (of 13), and Fig. 9 (of 25).
PAPER_LAYERS, LINEAR_LAYERS = (2, 3, 9, 11, 13), (1, 11, 24)
#: The same heights in a network of 8 convolutions.
QUICK_LAYERS = (2, 5, 8)
#: Layers whose covariate shift the paper draws (Fig. 3).
SHIFT_LAYERS, LINEAR_SHIFT_LAYERS = (5, 10), (9, 17)
DEPTH = 25
#: Steps between two looks at the Hessian of a VGG at quick scale.
QUICK_TRACKING = 10


def every(settings: Settings, network: AnyNetwork, times: int = 1) -> Every:
    """A schedule at a multiple of the interval of the line profiles."""
    size = linear_size_of(settings) if isinstance(network, LinearNetwork) else size_of(settings)
    return Every(interval=times * size.probe_every)


def lines(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    """The paper's list and step sizes far below it (raw), and the scale-free twin (relative)."""
    rate, schedule = network.learning_rate, every(settings, network)
    linear = isinstance(network, LinearNetwork)
    paper = paper_step_sizes(rate, "deep_linear" if linear else "vgg")
    raw = (rate / 2, *paper) if linear else (rate / 100, rate / 10, *paper)
    return (
        LineProfileProbe(step_sizes=raw, schedule=schedule),
        LineProfileProbe(coordinates="relative", step_sizes=RELATIVE_STEPS, schedule=schedule),
    )


def random_lines(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    """The paper's list along a random direction as long as the gradient (section 3.1), and the scale-free twin."""
    sizes, schedule = paper_step_sizes(network.learning_rate), every(settings, network, 2)
    return (
        LineProfileProbe(direction="random", step_sizes=sizes, schedule=schedule),
        LineProfileProbe(direction="random", coordinates="relative", step_sizes=RELATIVE_STEPS, schedule=schedule),
    )


def evaluation(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    """Test loss and accuracy along training; a deep linear network has no test set."""
    if isinstance(network, LinearNetwork):
        return ()
    size = size_of(settings)
    return (EvaluationProbe(examples=size.evaluation_examples, schedule=Every(interval=size.evaluate_every)),)


def activations(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    """Activations behind the norm, or where it would stand, of layers at several heights.

    The change between probes depends on how far apart they are: at the paper's scale as far as in Fig. 8a.
    """
    if isinstance(network, LinearNetwork):
        layers = tuple(f"layers.norm{number}" for number in LINEAR_LAYERS)
    else:
        numbers = PAPER_LAYERS if size_of(settings).conv_layers == 13 else QUICK_LAYERS
        layers = tuple(f"features.norm{number}" for number in numbers)
    times = 5 if settings.scale == "quick" else 1
    return (ActivationsProbe(layers=layers, schedule=every(settings, network, times)),)


def covariate_shift(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    """The shift of a convolution or linear layer with its norm: the paper's two at its scale, all at quick scale."""
    quick = settings.scale == "quick"
    if isinstance(network, LinearNetwork):
        part, kind, numbers = "layers", "linear", range(1, DEPTH + 1) if quick else LINEAR_SHIFT_LAYERS
    else:
        depth = size_of(settings).conv_layers
        part, kind, numbers = "features", "conv", range(1, depth + 1) if quick else SHIFT_LAYERS
    normed = network.norm != "none"
    groups = {f"{kind}{n}": _members(part, kind, n, normed) for n in numbers}
    return (CovariateShiftProbe(groups=groups, schedule=every(settings, network, 2 if quick else 1)),)


def _members(part: str, kind: str, number: int, normed: bool) -> tuple[str, ...]:
    layer = f"{part}.{kind}{number}"
    return (layer, f"{part}.norm{number}") if normed else (layer,)


def theorem(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    """The terms of Theorem 4.1 in every BatchNorm layer."""
    return (TheoremProbe(schedule=every(settings, network, 5)),) if network.norm == "batch" else ()


def rescaling(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    """Line profiles of one function under different scales of its weights."""
    sizes = paper_step_sizes(network.learning_rate)
    return (RescalingProbe(step_sizes=sizes, schedule=every(settings, network, 5)),)


def curvature(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    """The top eigenvalue and the curvature along the gradient, at steps that have line profiles, too."""
    times = (
        1 if isinstance(network, LinearNetwork) or settings.scale == "paper" else 10 // size_of(settings).probe_every
    )
    return (CurvatureProbe(schedule=every(settings, network, times)),)


def spectrum(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    """The largest eigenvalues, one per class, and the density, at the start and at thirds of the training."""
    if isinstance(network, LinearNetwork):
        return ()
    thirds = Every(interval=size_of(settings).steps // 3)
    return (CurvatureProbe(looks=("eigenvalues", "density"), k=CLASSES, density_steps=30, schedule=thirds),)

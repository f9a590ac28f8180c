"""covariate_shift against its naive twin, closed forms, finite differences, invariances, and bad input."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import CASES, Case, cross_entropy
from tests.reference import covariate_shift as naive
from tests.snapshot import snapshot
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alidade import covariate_shift
from alidade.core.errors import CallError, RefusedError
from alidade.core.records import BELOW_RESOLUTION, NON_FINITE, OK, UNDEFINED
from alidade.landscape.conditions import Part, conditions_now
from alidade.landscape.layers import home
from alidade.nn import vgg
from alidade.probes.covariate_shift import shift_of_parts

NAMES = ("l2", "cosine", "relative", "gradient_norm")


def labels(n: int, classes: int = 4) -> Tensor:
    return torch.arange(n) % classes


class Residual(nn.Module):
    """A block that changes tensors in place in all the usual ways, with dropout as a module and as a function."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(self.drop(out)))
        out += x
        return F.dropout(F.relu_(out), 0.1, self.training)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(Residual(4), Residual(4))
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        self.act(x)  # in place, and the return value is thrown away
        return self.head(self.blocks(x).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln2(x))


class Gpt(nn.Module):
    """Positions belong to the root, and the last layer is the embedding's."""

    def __init__(self, vocabulary: int = 7, width: int = 8, length: int = 5) -> None:
        super().__init__()
        self.position = nn.Parameter(0.1 * torch.randn(length, width))
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.token = nn.Embedding(vocabulary, width)
        self.head.weight = self.token.weight
        self.blocks = nn.ModuleList([Block(width), Block(width)])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(x).flatten(0, 1)


class Reused(nn.Module):
    """One module called twice, one used through a function before it is called, one never used."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.last = nn.Linear(6, 4)
        self.early = nn.Linear(6, 6)
        self.first, self.twice = nn.Linear(5, 6), nn.Linear(6, 6)
        self.between = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.first(x) * self.early.bias)
        x = self.twice(torch.tanh(self.twice(x)))
        return self.last(self.early(torch.tanh(x)))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Linear(5, 6)
        self.middle = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.middle, self.stem(x), use_reentrant=self.reentrant))


def images(model: nn.Module) -> Any:
    return model.double(), cross_entropy, (torch.randn(8, 1, 32, 32).double(), labels(8))


def vectors(model: nn.Module) -> Any:
    return model.double(), cross_entropy, (torch.randn(8, 5).double(), labels(8))


def recurrent() -> Any:
    model, loss_fn, (x, y) = next(case for case in CASES if case.name == "recurrent").build()
    return model.double(), loss_fn, (x.double(), y)


def language() -> Any:
    tokens = torch.randint(0, 7, (6, 5))
    return Gpt().double(), cross_entropy, (tokens, tokens.roll(-1, 1).flatten())


CONVOLUTIONS = range(1, 9)
VGG_NONE = [f"features.conv{k}" for k in CONVOLUTIONS] + ["head"]
VGG_BATCH = [f"features.{kind}{k}" for k in CONVOLUTIONS for kind in ("conv", "norm")] + ["head"]
VGG_NOISY = [f"features.{name}" for k in CONVOLUTIONS for name in (f"conv{k}", f"norm{k}.0")] + ["head"]
LAYERS = ["conv", "norm"]
BLOCK = ["ln1", "attention", "attention.out_proj", "ln2", "mlp.0", "mlp.2"]

#: Each kind of model with its layers in their order, written down by hand.
MODELS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "vgg": (lambda: images(vgg(8, 1 / 16, "none", in_channels=1)), VGG_NONE),
    "vgg_batch": (lambda: images(vgg(8, 1 / 16, "batch", in_channels=1)), VGG_BATCH),
    "vgg_noisy": (lambda: images(vgg(8, 1 / 16, "noisy", in_channels=1)), VGG_NOISY),
    "resnet": (
        lambda: images(ResNet()),
        ["stem", "norm", *(f"blocks.{k}.{name}{n}" for k in (0, 1) for n in (1, 2) for name in LAYERS), "head"],
    ),
    "gpt": (language, ["token", "(model)", *(f"blocks.{k}.{name}" for k in (0, 1) for name in BLOCK)]),
    "lstm": (recurrent, ["lstm", "head"]),
    "reused": (lambda: vectors(Reused()), ["first", "early", "twice", "last"]),
    "checkpointed": (lambda: vectors(Checkpointed(False)), ["stem", "middle.0", "middle.3", "head"]),
    "reentrant": (lambda: vectors(Checkpointed(True)), ["stem", "middle.0", "middle.3", "head"]),
}  # fmt: skip


def built(name: str, seed: int = 0) -> tuple[nn.Module, Any, Any, dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(seed)
    model, loss_fn, batch = MODELS[name][0]()
    return model, loss_fn, batch, *naive.states(model, loss_fn, batch, lr=0.3)


def keys_of(model: nn.Module, state: dict[str, Tensor], layers: list[str]) -> dict[str, list[str]]:
    """The state's keys by layer; the second name of a tied parameter goes with the first layer that has it."""
    found: dict[str, list[str]] = {layer: [key for key in state if home(key) == layer] for layer in layers}
    tied = {state[key].data_ptr(): layer for layer in reversed(layers) for key in found[layer]}
    for key, value in state.items():
        layer = tied.get(value.data_ptr())
        if layer is not None and key not in found[layer]:
            found[layer].append(key)
    return found


def assert_same(shift: Any, expected: dict[str, np.ndarray], rtol: float, atol: float = 0.0) -> None:
    """Distances agree relative to the gradients that were subtracted; ratios follow with the same error."""
    allowed = rtol * expected["gradient_norm"] + atol
    assert (np.abs(shift.gradient_norm - expected["gradient_norm"]) <= allowed).all()
    assert (np.abs(shift.l2 - expected["l2"]) <= allowed + rtol * expected["l2"]).all()
    allowed = 4 * (rtol + atol / expected["gradient_norm"]) * (1 + expected["relative"])
    assert (np.abs(shift.relative - expected["relative"]) <= allowed).all()
    assert (np.abs(shift.cosine - expected["cosine"]) <= allowed).all()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_its_naive_twin(name: str, seed: int) -> None:
    model, loss_fn, batch, before, after = built(name, seed)
    order = MODELS[name][1]
    shift = covariate_shift(model, loss_fn, batch, before, after)
    expected = naive.shifts(model, loss_fn, batch, before, after, keys_of(model, before, order))
    assert list(shift.layers)[: len(order)] == order
    used = covariate_shift(model, loss_fn, batch, before, after, layers=order)
    # The same kernels on the same numbers; what differs is the order of the sums in the norms of up to 1e5 terms,
    # of relative error 1e5 * eps / 2 = 1e-11 at the very worst.
    assert_same(used, expected, 1e-11)
    assert np.array_equal(used.l2, shift.l2[: len(order)])


@pytest.mark.parametrize("case", [c for c in CASES if c.name != "growing"], ids=lambda case: case.name)
def test_every_case_is_its_naive_twin(case: Case) -> None:
    torch.manual_seed(1)
    model, loss_fn, batch = case.build()
    if case.name == "own_generator":  # the copies that the twin makes would draw numbers of their own
        pytest.skip("a generator cannot be copied")
    before, after = naive.states(model, loss_fn, batch, lr=0.1)
    everything = covariate_shift(model, loss_fn, batch, before, after)
    layers = [name for name, status in zip(everything.layers, everything.status, strict=True) if status != UNDEFINED]
    shift = covariate_shift(model, loss_fn, batch, before, after, layers)
    expected = naive.shifts(model, loss_fn, batch, before, after, keys_of(model, before, layers))
    # float32: another order of sums of up to 1e3 terms is 1e3 * eps / 2 = 6e-5 at the worst. Attention's loss is
    # flat but for the last norm, so that gradients of 1e-6 are rounding errors of activations around 1.
    assert_same(shift, expected, 6e-5, atol=1e-7)


def product(weights: list[np.ndarray], width: int) -> np.ndarray:
    result = np.eye(width)
    for weight in weights:
        result = weight @ result
    return result


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_deep_linear_network_has_a_closed_form(seed: int) -> None:
    """The second witness: no autograd and no module. L = ||W_k ... W_1 X - A X||^2, by numpy alone."""
    rng = np.random.default_rng(seed)
    depth, width = 9, 5
    X, A = rng.normal(size=(width, 20)), rng.normal(size=(width, width))
    now = [rng.normal(size=(width, width)) / np.sqrt(width) for _ in range(depth)]

    def gradient(weights: list[np.ndarray], i: int) -> np.ndarray:
        above, below = product(weights[i + 1 :], width), product(weights[:i], width)
        return 2 * above.T @ (product(weights, width) @ X - A @ X) @ (below @ X).T

    def state(weights: list[np.ndarray]) -> dict[str, Tensor]:
        return {f"{i}.weight": torch.from_numpy(W) for i, W in enumerate(weights)}

    then = [W - 1e-3 * gradient(now, i) for i, W in enumerate(now)]
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(depth))).double()
    data = (torch.from_numpy(X.T), torch.from_numpy((A @ X).T))
    shift = covariate_shift(model, lambda m, b: (m(b[0]) - b[1]).square().sum(), data, state(now), state(then))
    for i in range(depth):
        G, moved = gradient(now, i), gradient(then[:i] + now[i:], i)
        norm, cosine = np.linalg.norm(G), np.sum(G * moved) / (np.linalg.norm(G) * np.linalg.norm(moved))
        # Some 20 products of matrices with condition numbers up to 1e2: rounding of 1e-12 relative to the gradients.
        assert shift.l2[i] == pytest.approx(np.linalg.norm(G - moved), rel=1e-9, abs=1e-11 * norm)
        assert shift.cosine[i] == pytest.approx(cosine, abs=1e-11)
        assert shift.relative[i] == pytest.approx(np.linalg.norm(G - moved) / norm, rel=1e-9, abs=1e-11)


def test_finite_differences_agree_on_a_smooth_network() -> None:
    """A witness without backward passes: central differences of the loss at the mixed parameters, in float64."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    batch = (torch.randn(6, 3).double(), labels(6, 3))
    before, after = naive.states(model, cross_entropy, batch, 0.5)
    shift = covariate_shift(model, cross_entropy, batch, before, after)

    def gradient(state: dict[str, Tensor], layer: str, step: float = 1e-5) -> np.ndarray:
        values = []
        for key in (f"{layer}.weight", f"{layer}.bias"):
            for place in range(state[key].numel()):
                ends = []
                for sign in (1, -1):
                    moved = {name: value.clone() for name, value in state.items()}
                    moved[key].view(-1)[place] += sign * step
                    with torch.no_grad():
                        ends.append(F.cross_entropy(torch.func.functional_call(model, moved, (batch[0],)), batch[1]))
                values.append(float(ends[0] - ends[1]) / (2 * step))
        return np.array(values)

    mixed = dict(before)
    for i, layer in enumerate(shift.layers):
        G, moved = gradient(before, layer), gradient(mixed, layer)
        # Truncation is step^2 |L'''| / 6 = 1e-10 at derivatives around 10, rounding eps / step = 2e-11.
        assert shift.l2[i] == pytest.approx(np.linalg.norm(G - moved), abs=1e-8)
        assert shift.gradient_norm[i] == pytest.approx(np.linalg.norm(G), abs=1e-8)
        mixed |= {key: value for key, value in after.items() if home(key) == layer}


class Counted(nn.Module):
    """A layer without children that counts how often it is computed."""

    def __init__(self, computed: list[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.count = lambda: computed.__setitem__(0, computed[0] + 1)  # a list of its own would be put back

    def forward(self, x: Tensor) -> Tensor:
        self.count()
        return torch.tanh(x @ self.weight)


def counted(n: int) -> tuple[nn.Module, list[list[int]], Any, dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    computed = [[0] for _ in range(n)]
    model, batch = nn.Sequential(*map(Counted, computed)), (torch.randn(8, 4), labels(8))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    return model, computed, batch, before, {key: value + 0.01 for key, value in before.items()}


def test_number_of_evaluations_and_of_layers_computed() -> None:
    """n layers: one full pass, one forward pass, and then each evaluation computes its layer and those above."""
    n = 9
    model, computed, batch, before, after = counted(n)
    calls: list[int] = []

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        return cross_entropy(model, batch)

    covariate_shift(model, loss_fn, batch, before, after)
    assert len(calls) == n + 1
    # Layer i (from 0) is computed in the two full passes and in the evaluations of layers 1 ... i.
    assert [counter[0] for counter in computed] == [2 + i for i in range(n)]


@pytest.mark.parametrize("wanted", [["4"], ["7", "4"]])
def test_few_layers_cost_few_evaluations(wanted: list[str]) -> None:
    model, computed, batch, before, after = counted(9)
    everything = covariate_shift(model, cross_entropy, batch, before, after)
    for counter in computed:
        counter[0] = 0
    shift = covariate_shift(model, cross_entropy, batch, before, after, wanted)
    assert shift.l2.tolist() == [everything.l2[int(name)] for name in wanted]
    assert computed[0][0] == 2
    assert computed[8][0] == 2 + len(wanted)


def test_what_lies_before_a_layer_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, loss_fn, batch, before, after = built("resnet")
    computed: list[str] = []
    for name in ("conv2d", "relu_"):
        original = getattr(F, name)
        monkeypatch.setattr(F, name, lambda *a, _f=original, _n=name, **k: computed.append(_n) or _f(*a, **k))
    covariate_shift(model, loss_fn, batch, before, after)
    # 5 convolutions, 11 layers: two full passes, and evaluations 1 to 10 compute those at or above their layer.
    assert computed.count("conv2d") == 2 * 5 + sum([4, 4, 3, 3, 2, 2, 1, 1, 0, 0])
    # The function at the end of a block belongs to no module inside it: it runs until the whole block is past.
    assert computed.count("relu_") == 2 * 2 + 5 + 9


def test_nothing_is_kept_afterwards() -> None:
    model, loss_fn, batch, before, after = built("vgg")
    outputs: list[weakref.ref[Tensor]] = []
    model.features[0].register_forward_hook(lambda module, inputs, output: outputs.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        covariate_shift(model, loss_fn, batch, before, after)
        assert outputs
        assert all(reference() is None for reference in outputs)
    finally:
        gc.enable()


@pytest.mark.parametrize("name", MODELS)
def test_nothing_changes(name: str) -> None:
    model, loss_fn, batch, before, after = built(name)
    loss_fn(model, batch).backward()
    tensors = [*before.values(), *after.values()]
    then, values, versions = snapshot(model), [v.clone() for v in tensors], [v._version for v in tensors]
    covariate_shift(model, loss_fn, batch, before, after)
    now = snapshot(model)
    assert {key for key in then if then[key] != now.get(key)} == set()
    assert all(map(torch.equal, tensors, values))
    assert [v._version for v in tensors] == versions


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_changes_in_any_case(case: Case) -> None:
    torch.manual_seed(1)
    model, loss_fn, batch = case.build()
    loss_fn(model, batch).backward()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    other = {key: value + 0.01 if value.is_floating_point() else value for key, value in state.items()}
    before = snapshot(model)
    covariate_shift(model, loss_fn, batch, state, other)
    now = snapshot(model)
    assert {key for key in before if before[key] != now.get(key)} == set()


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["loss", "layer"])
@pytest.mark.parametrize("call", [1, 2, 4])
def test_nothing_changes_when_something_raises(error: type[BaseException], place: str, call: int) -> None:
    model, loss_fn, batch, states_before, states_after = built("resnet")
    calls = 0

    def failing(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls >= call:
            raise error("in the middle")

    if place == "layer":
        model.blocks[1].register_forward_pre_hook(failing)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        result = loss_fn(model, batch)
        if place == "loss":
            failing()
        return result

    before = snapshot(model)
    with pytest.raises(error, match="in the middle"):
        covariate_shift(model, loss, batch, states_before, states_after)
    now = snapshot(model)
    assert {key for key in before if before[key] != now.get(key)} == set()


def test_gradients_of_others_stay_when_checkpointing_runs_a_backward_pass() -> None:
    model, loss_fn, (x, y), before, after = built("reentrant")
    x.requires_grad_()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    scale.grad = torch.full_like(scale, 7.0)
    kept = scale.grad
    covariate_shift(model, lambda m, b: scale * loss_fn(m, b), (x, y), before, after)
    assert x.grad is None
    assert scale.grad is kept
    assert kept == 7.0


@pytest.mark.parametrize("name", ["vgg_noisy", "resnet", "gpt", "checkpointed"])
def test_equal_states_give_zero_and_one_exactly(name: str) -> None:
    model, loss_fn, batch, before, _ = built(name)
    shift = covariate_shift(model, loss_fn, batch, before, before)
    assert (shift.l2 == 0).all()
    assert (shift.cosine == 1).all()
    assert (shift.relative == 0).all()


@settings(max_examples=15)
@given(data=st.data())
def test_permuted_layers_give_permuted_results(data: st.DataObject) -> None:
    model, loss_fn, batch, before, after = built("gpt")
    full = covariate_shift(model, loss_fn, batch, before, after)
    order = data.draw(st.permutations(range(len(full.layers))))
    chosen = order[: data.draw(st.integers(1, len(order)))]
    shift = covariate_shift(model, loss_fn, batch, before, after, [full.layers[k] for k in chosen])
    assert shift.layers == tuple(full.layers[k] for k in chosen)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(shift, name), getattr(full, name)[chosen])


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), scale=st.floats(1e-3, 1.0), depth=st.integers(2, 6))
def test_relations_between_the_numbers(seed: int, scale: float, depth: int) -> None:
    """Scaling the loss scales distances and leaves ratios and angles alone; distances obey the law of cosines."""
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(depth))).double()
    batch = (torch.randn(8, 4).double(), labels(8))
    before, after = naive.states(model, cross_entropy, batch, lr=1.0)
    shift = covariate_shift(model, cross_entropy, batch, before, after)
    scaled = covariate_shift(model, lambda m, b: scale * cross_entropy(m, b), batch, before, after)
    assert (np.abs(shift.cosine) <= 1 + 1e-12).all()
    np.testing.assert_allclose(shift.relative, shift.l2 / shift.gradient_norm, rtol=1e-14)
    # One more rounding per entry of a gradient, in units of the gradient; a difference of gradients keeps that error.
    assert (np.abs(scaled.l2 - scale * shift.l2) <= 1e-12 * scale * shift.gradient_norm).all()
    np.testing.assert_allclose(scaled.cosine, shift.cosine, atol=1e-12)
    # G' is no closer to G than the foot of the perpendicular from G on its line: l2 >= ||G|| sin.
    sine_squared = 1 - shift.cosine**2
    assert (shift.l2**2 >= shift.gradient_norm**2 * (sine_squared - 1e-12)).all()


@settings(max_examples=15)
@given(factor=st.floats(0.05, 20.0), layer=st.sampled_from([0, 3]))
def test_rescaling_weights_before_a_norm_moves_the_distance_only(factor: float, layer: int) -> None:
    torch.manual_seed(6)
    halves = [
        [nn.Linear(5, 5, bias=False), nn.BatchNorm1d(5, eps=1e-30, affine=False), nn.Tanh()] for _ in range(2)
    ]  # eps would break the invariance
    model = nn.Sequential(*halves[0], *halves[1], nn.Linear(5, 4)).double()
    batch = (torch.randn(16, 5).double(), labels(16))
    states = naive.states(model, cross_entropy, batch, lr=1.0)
    key = f"{layer}.weight"
    scaled = [state | {key: factor * state[key]} for state in states]
    first, second = (covariate_shift(model, cross_entropy, batch, *pair) for pair in (states, scaled))
    # Gradients and activations pass some ten operations with one rounding each, more where a norm divides by little.
    np.testing.assert_allclose(second.relative, first.relative, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(second.cosine, first.cosine, atol=1e-10)
    expected = first.l2 / np.where(np.array(first.layers) == str(layer), factor, 1.0)
    np.testing.assert_allclose(second.l2, expected, rtol=1e-9, atol=1e-12)


def test_the_live_weights_do_not_matter() -> None:
    model, loss_fn, batch, before, after = built("vgg_batch")
    other = copy.deepcopy(model)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.mul_(3)
    first, second = (covariate_shift(m, loss_fn, batch, before, after) for m in (model, other))
    np.testing.assert_array_equal(first.l2, second.l2)


def test_running_statistics_come_from_the_states() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4)).double()
    batch = (torch.randn(8, 3).double(), labels(8))
    before, after = naive.states(model, cross_entropy, batch, 0.2)  # before: no batch was tracked
    with pytest.raises(CallError, match="layer '1' has tracked no batch"):
        covariate_shift(model, cross_entropy, batch, before, after, statistics="running")
    before["1.num_batches_tracked"] += 1
    shift = covariate_shift(model, cross_entropy, batch, before, after, statistics="running")
    keys = keys_of(model, before, ["0", "1", "3"])
    assert_same(shift, naive.shifts(copy.deepcopy(model).eval(), cross_entropy, batch, before, after, keys), 1e-12)
    assert shift.provenance.statistics == "running"
    assert model.training
    assert covariate_shift(model, cross_entropy, batch, before, after).provenance.statistics == "batch"


def test_groups_are_measured_together() -> None:
    model, loss_fn, batch, before, after = built("vgg_batch")
    pairs = [[f"features.conv{k}", f"features.norm{k}"] for k in CONVOLUTIONS]
    shift = covariate_shift(model, loss_fn, batch, before, after, [*pairs, "head"])
    keys = [[key for key in before if home(key) in pair] for pair in [*pairs, ["head"]]]
    expected = naive.shifts(model, loss_fn, batch, before, after, dict(zip(shift.layers, keys, strict=True)))
    assert_same(shift, expected, 1e-11)
    assert shift.layers[4] == "features.conv5+features.norm5"
    named = covariate_shift(model, loss_fn, batch, before, after, {"fifth": pairs[4], "all": ["features"]})
    assert named.layers == ("fifth", "all")
    assert named.l2[0] == shift.l2[4]
    assert named.l2[1] == 0  # it begins with the first layer


def test_prefixes_of_wrappers_are_looked_through() -> None:
    model, loss_fn, batch, before, after = built("resnet")
    expected = covariate_shift(model, loss_fn, batch, before, after)
    wrapped = [{f"_orig_mod.module.{key}": value for key, value in state.items()} for state in (before, after)]
    found = covariate_shift(nn.DataParallel(model), loss_fn, batch, *wrapped, layers=["module.head", "stem"])
    assert found.l2.tolist() == [expected.l2[-1], expected.l2[0]]


def test_compiled_modules_inside_are_run_uncompiled() -> None:
    model, loss_fn, batch, before, after = built("gpt")
    expected = covariate_shift(model, loss_fn, batch, before, after)
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    found = covariate_shift(model, loss_fn, batch, before, after)
    assert found.layers == expected.layers
    np.testing.assert_array_equal(found.l2, expected.l2)


def test_one_name_of_a_tied_parameter_is_enough() -> None:
    model, loss_fn, batch, before, after = built("gpt")
    expected = covariate_shift(model, loss_fn, batch, before, after)
    for name in ("head.weight", "token.weight"):
        short = [{key: value for key, value in state.items() if key != name} for state in (before, after)]
        np.testing.assert_array_equal(covariate_shift(model, loss_fn, batch, *short).l2, expected.l2)


def test_frozen_layers_are_none_and_frozen_parameters_do_not_count() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)).double()
    model[1].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    batch = (torch.randn(8, 3).double(), labels(8))
    before, after = naive.states(model, cross_entropy, batch, 0.2)
    shift = covariate_shift(model, cross_entropy, batch, before, after)
    assert shift.layers == ("0", "2")
    G = naive.gradient_at(model, cross_entropy, batch, before, ["2.weight"])
    assert shift.gradient_norm[1] == pytest.approx(np.linalg.norm(G), rel=1e-13)


def test_layers_that_are_never_used_come_last_and_are_undefined() -> None:
    model, loss_fn, batch, before, after = built("reused")
    shift = covariate_shift(model, loss_fn, batch, before, after)
    assert shift.layers[-1] == "unused"
    assert shift.status[-1] == UNDEFINED
    assert np.isnan([shift.cosine[-1], shift.relative[-1]]).all()
    rows = [row for row in shift.rows(3) if row.layer == "unused"]
    assert {row.quantity.removeprefix("covariate_shift_"): row.status for row in rows} == {
        "l2": UNDEFINED, "cosine": UNDEFINED, "relative": UNDEFINED, "gradient_norm": OK, "resolution": OK,
    }  # fmt: skip


def test_a_gradient_that_vanishes_or_appears() -> None:
    """A ReLU that the update switches off or on: G' or G is zero, and 0/0 is not a number."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()

    def state(first: float) -> dict[str, Tensor]:
        return {"0.weight": torch.tensor([[first]]).double(), "2.weight": torch.ones(1, 1).double()}

    def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
        return (model(x) + 1).square().sum() / 2

    one = torch.ones(1, 1).double()
    vanishes = covariate_shift(model, loss_fn, one, state(1.0), state(-1.0))
    appears = covariate_shift(model, loss_fn, one, state(-1.0), state(1.0))
    assert (vanishes.l2[1], vanishes.relative[1], vanishes.gradient_norm[1]) == (2.0, 1.0, 2.0)
    assert (appears.l2[1], appears.gradient_norm[1]) == (2.0, 0.0)
    assert np.isnan([vanishes.cosine[1], appears.cosine[1], appears.relative[1]]).all()
    assert vanishes.status[1] == appears.status[1] == UNDEFINED
    statuses = [{row.quantity: row.status for row in s.rows(0) if row.layer == "2"} for s in (vanishes, appears)]
    assert [s["covariate_shift_l2"] for s in statuses] == [OK, OK]
    assert [s["covariate_shift_relative"] for s in statuses] == [OK, UNDEFINED]
    assert [s["covariate_shift_cosine"] for s in statuses] == [UNDEFINED, UNDEFINED]


def test_a_loss_that_overflows_is_recorded_as_such() -> None:
    model, loss_fn, batch, before, after = built("vgg")
    after["features.conv1.weight"] = after["features.conv1.weight"] * float("inf")
    shift = covariate_shift(model, loss_fn, batch, before, after)
    assert shift.status == (OK, *[NON_FINITE] * (len(shift.layers) - 1))
    assert not np.isfinite(shift.l2[1:]).any()
    statuses = {row.quantity: row.status for row in shift.rows(0) if row.layer == "head"}
    assert {status for name, status in statuses.items() if "gradient_norm" not in name} == {NON_FINITE}
    assert statuses["covariate_shift_gradient_norm"] == OK


def test_a_shift_below_the_rounding_of_float32_is_marked() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 4))
    batch = (torch.randn(32, 5), labels(32))
    before, after = naive.states(model, cross_entropy, batch, 1e-6)
    tiny = covariate_shift(model, cross_entropy, batch, before, after)
    assert tiny.status == (OK, BELOW_RESOLUTION)
    assert {row.quantity: row.status for row in tiny.rows(0) if row.layer == "2"}["covariate_shift_cosine"] == OK
    exact = covariate_shift(
        copy.deepcopy(model).double(),
        cross_entropy,
        (batch[0].double(), batch[1]),
        *({key: value.double() for key, value in state.items()} for state in (before, after)),
    )
    assert np.abs(tiny.l2 - exact.l2)[1] <= tiny.resolution[1]


def test_resolution_covers_the_rounding_of_bfloat16() -> None:
    """The float32 numbers are the truth; the error bar is not exceeded, and a large shift stands out of it."""
    torch.manual_seed(0)
    model = vgg(8, 1 / 16, "batch", in_channels=1)
    batch = (torch.randn(16, 1, 32, 32), labels(16))
    before, after = naive.states(model, cross_entropy, batch, 0.5)
    truth = covariate_shift(model, cross_entropy, batch, before, after)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = covariate_shift(model, cross_entropy, batch, before, after)
    assert (np.abs(rough.l2 - truth.l2) <= rough.resolution).all()
    assert rough.status.count(OK) > len(rough.layers) / 2


def test_rows_name_their_layers() -> None:
    model, loss_fn, batch, before, after = built("vgg")
    shift = covariate_shift(model, loss_fn, batch, before, after)
    rows = list(shift.rows(7, prefix="held_out_"))
    assert len(rows) == 5 * len(shift.layers)
    assert {row.layer for row in rows} == set(shift.layers)
    assert rows[0].quantity == "held_out_covariate_shift_l2"
    assert (rows[0].step, rows[0].unit, rows[1].unit, rows[0].dtype) == (7, "nat/w", "1", "float64")


def penalized(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A loss that contains the norm of its own gradient, taken for whatever is being differentiated."""
    loss = cross_entropy(model, batch)
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, wanted, create_graph=True)
    return loss + sum(gradient.square().sum() for gradient in gradients)


def input_penalized(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x = batch[0].clone().requires_grad_()
    loss = cross_entropy(model, (x, batch[1]))
    return loss + torch.autograd.grad(loss, x, create_graph=True)[0].square().sum()


COLLECTED: list[Tensor] = []


class Collecting(nn.Module):
    """Hands a value on behind everybody's back."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        COLLECTED.append(x.square().mean())
        return x


class Remembering(nn.Module):
    """Hands a value on as an attribute, as routers of experts do."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        self.auxiliary = x.square().mean()
        return x


def collected(model: nn.Module, batch: Any) -> Tensor:
    COLLECTED.clear()
    return cross_entropy(model, batch) + sum(COLLECTED)


def remembered(model: nn.Module, batch: Any) -> Tensor:
    return cross_entropy(model, batch) + sum(m.auxiliary for m in model if isinstance(m, Remembering))


def untouched(layer: nn.Module) -> nn.Module:
    return layer


@pytest.mark.parametrize(
    ("loss_fn", "wrap"),
    [(penalized, untouched), (input_penalized, untouched), (collected, Collecting), (remembered, Remembering)],
    ids=["gradient penalty", "input penalty", "side channel", "attribute"],
)
def test_losses_that_look_behind_the_outputs_are_exact_too(loss_fn: Any, wrap: Any) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(wrap(nn.Linear(5, 6)), nn.Tanh(), wrap(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 4)).double()
    batch = (torch.randn(8, 5).double(), labels(8))
    before, after = naive.states(model, loss_fn, batch, 0.1)
    shift = covariate_shift(model, loss_fn, batch, before, after)
    expected = naive.shifts(model, loss_fn, batch, before, after, keys_of(model, before, list(shift.layers)))
    assert_same(shift, expected, 1e-12)


FEATURES: list[Tensor] = []


def test_hooks_on_inner_modules_run() -> None:
    """A loss over features that hooks collect, inside a block that could have been skipped."""
    model, _, batch, before, after = built("resnet")
    model.blocks[0].conv2.register_forward_hook(lambda module, inputs, output: FEATURES.append(output))

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        FEATURES.clear()
        return cross_entropy(model, batch) + FEATURES[0].square().mean()

    shift = covariate_shift(model, loss_fn, batch, before, after)
    expected = naive.shifts(model, loss_fn, batch, before, after, keys_of(model, before, MODELS["resnet"][1]))
    FEATURES.clear()
    assert_same(shift, expected, 1e-12)


def test_a_loss_that_is_no_function_of_the_parameters_is_refused() -> None:
    model, _, batch, before, after = built("vgg")
    calls: list[int] = []

    def drifting(model: nn.Module, batch: Any) -> Tensor:
        calls.append(1)
        return (1 + 0.01 * len(calls)) * cross_entropy(model, batch)

    with pytest.raises(RefusedError, match="expected the same loss twice"):
        covariate_shift(model, drifting, batch, before, after)


def test_micro_batches_add_up() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    x, y = torch.randn(8, 3).double(), labels(8)
    before, after = naive.states(model, cross_entropy, (x, y), 0.3)
    parts = [Part((x[half], y[half]), conditions_now(model), 0.5) for half in (slice(0, 4), slice(4, 8))]
    whole = covariate_shift(model, cross_entropy, (x, y), before, after)
    halves = shift_of_parts(model, cross_entropy, parts, before, after)
    for name in NAMES:  # a mean of means: one more rounding per entry
        np.testing.assert_allclose(getattr(halves, name), getattr(whole, name), rtol=1e-9, atol=1e-14)


class Routed(nn.Module):
    """Uses one expert or the other, depending on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        expert = self.left if x[0, 0] > 0 else self.right
        return self.head(torch.tanh(expert(torch.tanh(self.stem(x)))))


def test_micro_batches_may_use_different_layers() -> None:
    torch.manual_seed(0)
    model = Routed().double()
    xs, y = [torch.rand(4, 3).double(), -torch.rand(4, 3).double()], labels(4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    after = {key: value + 0.1 for key, value in before.items()}
    parts = [Part((x, y), conditions_now(model), 0.5) for x in xs]
    shift = shift_of_parts(model, cross_entropy, parts, before, after)

    def both(model: nn.Module, batch: Any) -> Tensor:
        return sum(0.5 * cross_entropy(model, (x, y)) for x in xs)

    assert shift.layers == ("stem", "left", "head", "right")  # what only the second one uses comes after the first's
    expected = naive.shifts(model, both, None, before, after, keys_of(model, before, list(shift.layers)))
    assert_same(shift, expected, 1e-12)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_works_in_any_gradient_mode(context: Callable[[], Any]) -> None:
    model, loss_fn, batch, before, after = built("gpt")
    expected = covariate_shift(model, loss_fn, batch, before, after)
    with context():
        found = covariate_shift(model, loss_fn, batch, {key: value.clone() for key, value in before.items()}, after)
    np.testing.assert_array_equal(found.l2, expected.l2)


def test_autocast_is_that_of_the_caller() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
    batch = (torch.randn(8, 5), labels(8))
    before, after = naive.states(model, cross_entropy, batch, 0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shift = covariate_shift(model, cross_entropy, batch, before, after)
        expected = naive.shifts(model, cross_entropy, batch, before, after, keys_of(model, before, ["0", "2"]))
    assert shift.provenance.dtype == "bfloat16"
    assert_same(shift, expected, 1e-6)


BAD_LAYERS = [
    ([], "expected a non-empty list"),
    ("head", "expected a non-empty list"),
    (["features.conv1", 3], "a name or a non-empty list of names"),
    ([[]], "a name or a non-empty list of names"),
    (["tail"], "got 'tail'; there are features.conv1, features.conv2"),
    ([["head", "features.norm1"]], "got 'features.norm1'"),
]


@pytest.mark.parametrize(("layers", "message"), BAD_LAYERS)
def test_bad_layers_get_one_line(layers: Any, message: str) -> None:
    model, loss_fn, batch, before, after = built("vgg")
    with pytest.raises(CallError, match=message) as caught:
        covariate_shift(model, loss_fn, batch, before, after, layers)
    assert "\n" not in str(caught.value)


def test_bad_states_get_one_line() -> None:
    model, loss_fn, batch, before, after = built("vgg")
    short = {key: value for key, value in before.items() if key != "head.bias"}
    wrong = after | {"head.bias": torch.zeros(3)}
    for arguments, message in (
        ((short, after), r"before: expected the model's own keys, missing \['head.bias'\], unexpected \[\]"),
        ((before, after | {"tail.bias": torch.zeros(1)}), r"after: .* unexpected \['tail.bias'\]"),
        ((before, wrong), r"after\['head.bias'\]: expected shape \(10,\), got \(3,\)"),
        ((before, after | {"head.bias": 1.0}), r"after\['head.bias'\]: expected a Tensor, got float"),
        ((None, after), "before: expected a state dictionary, got NoneType"),
    ):
        with pytest.raises(CallError, match=message) as caught:
            covariate_shift(model, loss_fn, batch, *arguments)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda model, batch: model(batch[0]), "expected a scalar Tensor, got shape"),
        (lambda model, batch: cross_entropy(model, batch).detach(), "depends on the parameters"),
        (lambda model, batch: 1.0, "expected a scalar Tensor, got float"),
        ("loss", "loss_fn: expected"),
    ],
)
def test_bad_losses_get_one_line(loss_fn: Any, message: str) -> None:
    model, _, batch, before, after = built("vgg")
    with pytest.raises(CallError, match=message) as caught:
        covariate_shift(model, loss_fn, batch, before, after)
    assert "\n" not in str(caught.value)


def test_an_unknown_mode_of_statistics_and_a_frozen_model_are_refused() -> None:
    model, loss_fn, batch, before, after = built("vgg")
    with pytest.raises(CallError, match="'batch' or 'running', got 'sometimes'"):
        covariate_shift(model, loss_fn, batch, before, after, statistics="sometimes")
    with pytest.raises(CallError, match="at least one parameter"):
        covariate_shift(model.requires_grad_(False), loss_fn, batch, before, after)

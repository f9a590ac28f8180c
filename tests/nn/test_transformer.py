"""The small transformer: counts, causality, tied weights, attention as in the equation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alidade
from alidade.core.errors import CallError
from alidade.nn import Transformer, transformer


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def small(norm: str = "layer", dropout: float = 0.0) -> tuple[Transformer, Tensor]:
    torch.manual_seed(0)
    network = transformer(vocab=11, context=9, layers=2, heads=2, width=8, norm=norm, dropout=dropout)
    return network.double(), torch.randint(0, 11, (3, 9))


@pytest.mark.parametrize(("norm", "per_norm"), [("layer", 16), ("rms", 8), ("none", 0)])
def test_the_parameters_are_those_of_the_plan(norm: str, per_norm: int) -> None:
    """Embeddings; per block 12 w^2 weights, 9 w biases and two norms; a last norm; no matrix of its own at the end."""
    network, _ = small(norm)
    w, layers = 8, 2
    expected = (11 + 9) * w + layers * (12 * w**2 + 9 * w + 2 * per_norm) + per_norm
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
def test_no_position_sees_a_later_token(norm: str) -> None:
    network, tokens = small(norm)
    logits = network(tokens)
    assert logits.shape == (3, 9, 11)
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    difference = (network(changed) - logits).abs().amax((0, 2))
    assert not difference[:5].any()
    assert difference[5:].all()
    torch.testing.assert_close(network(tokens[:, :4]), logits[:, :4])  # a shorter sequence is the same beginning


def test_the_last_layer_is_the_embedding() -> None:
    network, tokens = small()
    features: list[Tensor] = []
    network.norm.register_forward_hook(lambda module, inputs, output: features.append(output))
    torch.testing.assert_close(network(tokens), features[0] @ network.tokens.weight.T)
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"tokens", "positions", "blocks", "norm"}


def test_attention_is_that_of_its_equation() -> None:
    """Position by position, head by head: softmax over the past of <q, k> / sqrt(d), times v."""
    network, _ = small()
    attention, x = network.blocks.block1.attention, torch.randn(1, 5, 8, dtype=torch.float64)
    query, key, value = attention.query_key_value(x)[0].split(8, dim=1)
    rows = []
    for t in range(5):
        heads = []
        for columns in (slice(0, 4), slice(4, 8)):
            scores = torch.stack([query[t, columns] @ key[s, columns] / math.sqrt(4) for s in range(t + 1)])
            shares = scores.exp() / scores.exp().sum()
            heads.append(sum(shares[s] * value[s, columns] for s in range(t + 1)))
        rows.append(attention.output(torch.cat(heads)))
    torch.testing.assert_close(attention(x)[0], torch.stack(rows), rtol=1e-12, atol=1e-14)


def test_weights_start_as_in_its_docstring() -> None:
    torch.manual_seed(0)
    network = transformer(width=128, layers=8)
    for name, p in network.named_parameters():
        if name.endswith("bias"):
            assert not p.any()
        elif p.ndim == 2:
            scale = 0.02 / 4 if name.endswith(("attention.output.weight", "contract.weight")) else 0.02
            # The deviation of n normal draws is known to 1 / sqrt(2 n): five of it.
            assert float(p.detach().std()) == pytest.approx(scale, rel=5 / math.sqrt(2 * p.numel())), name


def test_it_differentiates_twice() -> None:
    """Against central differences; its attention needs no plain kernel to be chosen for it.

    Embeddings of deviation 0.028 are divided by it, so that the fourth derivative is of order 0.028^-3 = 5e4:
    differences with step h err by h^2 times that, and by 1e-16 / h.
    """
    network, tokens = small()
    loss = next_token(network, tokens)
    parameters = list(network.parameters())
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    v = [torch.randn_like(p) for p in parameters]
    products = torch.autograd.grad(gradient, parameters, v)
    objective, h = alidade.Objective(network, next_token, tokens), 1e-6
    ends = [
        objective.gradient(
            {name: p + sign * h * move for (name, p), move in zip(objective.parameters.items(), v, strict=True)}
        )
        for sign in (1, -1)
    ]
    for (name, end), product in zip(ends[0].items(), products, strict=True):
        torch.testing.assert_close(product, (end - ends[1][name]) / (2 * h), rtol=1e-5, atol=1e-6)


def test_dropout_is_on_in_train_mode_only() -> None:
    network, tokens = small(dropout=0.3)
    assert not torch.equal(network(tokens), network(tokens))
    network.eval()
    assert torch.equal(network(tokens), network(tokens))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: transformer(norm="batch"), "norm: expected one of 'layer', 'rms', 'none', got 'batch'"),
        (lambda: transformer(heads=3), "heads: expected a divisor of the width 64, got 3"),
        (lambda: transformer(context=4)(torch.zeros(1, 5).long()), "tokens: expected at most 4 in a sequence, got 5"),
    ],
)
def test_wrong_calls_say_what_was_expected(call: object, message: str) -> None:
    with pytest.raises(CallError, match=message):
        call()  # type: ignore[operator]

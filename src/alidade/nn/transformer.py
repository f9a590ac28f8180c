"""A small causal transformer for sequences of tokens (Vaswani et al. 2017; pre-norm as in Radford et al. 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alidade.core.errors import CallError
from alidade.nn.norm import norm as make_norm

NORMS = ("layer", "rms", "none")
#: Standard deviation of the weights at the start (Radford et al. 2019).
SPREAD = 0.02


class CausalAttention(nn.Module):
    """Softmax attention of every position to itself and those before it, in operations that differentiate twice."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) in and out."""
        n, t, width = x.shape
        split = self.query_key_value(x).view(n, t, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (N, heads, T, width / heads)
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)
        future = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
        weights = self.dropout(scores.masked_fill(future, -math.inf).softmax(3))
        mixed: Tensor = self.output((weights @ value).transpose(1, 2).reshape(n, t, width))
        return mixed


class Block(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)) with 4 x width hidden units and GELU."""

    def __init__(self, width: int, heads: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attention = make_norm(norm, width, dims=1), CausalAttention(width, heads, dropout)
        self.norm2 = make_norm(norm, width, dims=1)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) in and out."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        added: Tensor = self.dropout(self.contract(F.gelu(self.expand(self.norm2(x)))))
        return x + added


class Transformer(nn.Module):
    """Embeddings of tokens and positions, blocks, a last norm; the logits use the tokens' embedding again.

    Layers are named ``tokens``, ``positions``, ``blocks.block1.attention.query_key_value``, ..., ``norm``.
    """

    def __init__(self, tokens: nn.Embedding, positions: nn.Embedding, blocks: nn.Sequential, norm: nn.Module) -> None:
        super().__init__()
        self.tokens, self.positions, self.blocks, self.norm = tokens, positions, blocks, norm

    def forward(self, tokens_NT: Tensor) -> Tensor:
        """Logits (N, T, vocab) of the next token at every position of (N, T) int64."""
        length, context = tokens_NT.shape[1], self.positions.num_embeddings
        if length > context:
            raise CallError(f"tokens: expected at most {context} in a sequence, got {length}")
        x = self.tokens(tokens_NT) + self.positions(torch.arange(length, device=tokens_NT.device))
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


def transformer(
    vocab: int = 64,
    context: int = 64,
    layers: int = 2,
    heads: int = 4,
    width: int = 64,
    norm: str = "layer",
    dropout: float = 0.0,
) -> Transformer:
    r"""A pre-norm decoder, its weights drawn from torch's global random state.

    Weights are :math:`N(0, 0.02^2)`, those that lead back into the residual stream :math:`1 / \sqrt{2\,layers}`
    times that; biases start at 0.

    Args:
        vocab: number of tokens.
        context: longest sequence.
        layers: number of blocks.
        heads: of the attention; they divide the width.
        width: of the residual stream.
        norm: "layer", "rms" or "none"; before attention, before the mlp and at the end.
        dropout: share of zeros in attention weights and in what the branches add.

    Raises:
        CallError: another norm, heads that do not divide the width.

    >>> sum(p.numel() for p in transformer(vocab=10, context=8, layers=1, heads=2, width=4).parameters())
    324
    """
    if norm not in NORMS:
        raise CallError(f"norm: expected one of {', '.join(map(repr, NORMS))}, got {norm!r}")
    if width % heads:
        raise CallError(f"heads: expected a divisor of the width {width}, got {heads!r}")
    blocks = nn.Sequential()
    for number in range(1, layers + 1):
        blocks.add_module(f"block{number}", Block(width, heads, norm, dropout))
    network = Transformer(
        nn.Embedding(vocab, width), nn.Embedding(context, width), blocks, make_norm(norm, width, dims=1)
    )
    _initialize(network, layers)
    return network


def _initialize(network: Transformer, layers: int) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            residual = name.endswith(("attention.output", "contract"))
            nn.init.normal_(module.weight, 0.0, SPREAD / math.sqrt(2 * layers) if residual else SPREAD)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

"""Models and loops of other libraries; each test needs its library and says so where it is missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

import alidade


def _tiny_gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=17, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    return transformers.GPT2LMHeadModel(config).train()  # random weights, dropout 0.1, tied embeddings


def _encoding(kind: str, step: int = 0) -> Mapping[str, Tensor]:
    tokens = torch.randint(0, 17, (3, 6), generator=torch.Generator().manual_seed(step))
    content = {"input_ids": tokens, "labels": tokens}
    if kind == "dict":
        return content
    return pytest.importorskip("transformers", reason="needs transformers").BatchEncoding(content)


def _loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return model(**batch).loss


@pytest.mark.parametrize("kind", ["dict", "BatchEncoding"])
def test_a_language_model_whose_output_carries_the_loss(kind: str) -> None:
    model, batch = _tiny_gpt2(), _encoding(kind)
    objective = alidade.Objective(model, _loss, batch)
    assert objective.batch_size == 3
    value, gradient = objective.value(), objective.gradient()
    profile = alidade.line_profile(objective, [0.0, 0.1])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = {name: tensor + 0.01 for name, tensor in before.items()}
    shift = alidade.covariate_shift(model, _loss, batch, before, after)
    assert shift.layers[0] == "transformer.wte"
    assert (shift.l2[0], shift.l2[-1] > 0) == (0.0, True)
    loss = _loss(model, batch)  # the very dropout masks that were measured
    loss.backward()
    assert value == loss.detach() == profile.losses[0]
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(gradient[name], parameter.grad, rtol=1e-4, atol=1e-7)  # float32, order of sums


def test_a_survey_of_a_language_model_is_bit_identical(tmp_path: Path) -> None:
    def train(out: Path | None) -> tuple[nn.Module, list[float]]:
        model = _tiny_gpt2()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        survey = None if out is None else alidade.Survey(model, _loss, optimizer, out, schedule=2, budget=None)
        losses = []
        for step in range(6):
            batch = _encoding("BatchEncoding", step)
            if survey is not None:
                survey.observe(batch)
            optimizer.zero_grad()
            loss = _loss(model, batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if survey is not None:
            survey.close()
        return model, losses

    (plain, expected), (surveyed, losses) = train(None), train(tmp_path / "s")
    assert losses == expected
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), surveyed.parameters(), strict=True))
    frame = alidade.load(tmp_path / "s").filter(pl.col("quantity") == "update_loss", pl.col("step_size") == 0)
    assert frame.sort("step")["value"].to_list() == losses[::2]


def test_automatic_optimization_of_lightning_passes_a_closure(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="needs lightning")
    surveys: list[alidade.Survey] = []
    seen: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.2), nn.Tanh(), nn.Linear(6, 2))

        def loss(self, batch: Any) -> Tensor:
            return nn.functional.cross_entropy(self.body(batch[0]), batch[1])

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = self.loss(batch)
            seen.append(loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Surveying(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if not surveys:
                arguments = {"out": tmp_path / "s", "probes": "update_profile", "budget": None}
                surveys.append(alidade.Survey(module, Module.loss, trainer.optimizers[0], **arguments))
            surveys[0].observe(batch)

    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    data = torch.utils.data.TensorDataset(x, torch.arange(12) % 2)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Surveying()], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=4))
    surveys[0].close()
    frame = alidade.load(tmp_path / "s").filter(pl.col("quantity") == "update_loss", pl.col("step_size") == 0)
    assert surveys[0].step == len(seen) == 6
    assert frame.sort("step")["value"].to_list() == seen

"""docs/own-model.md: its blocks run, and the model computes what its torch module does, on every op set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from code_blocks import code_blocks

from linnet import LLM, InvalidRequestError, ModelFileError, SamplingParams, UnsupportedModelError

PROMPTS = [[5, 6, 7], list(range(45)), [99]]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    torch.manual_seed(3)
    names: dict[str, Any] = {"__name__": "own_model"}
    for block in code_blocks("own-model.md"):
        exec(compile(block, "docs/own-model.md", "exec"), names)
    return names


def torch_logits(page: dict[str, Any], tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return page["model"](torch.tensor(tokens)).numpy()


def test_the_page_runs_and_says_the_truth(page: dict[str, Any]) -> None:
    np.testing.assert_allclose(page["logits"], torch_logits(page, [5, 6, 7]), rtol=0, atol=1e-2)  # keys and values are float16


@pytest.mark.parametrize("ops", ["reference", "native"])
def test_it_runs_like_any_family(page: dict[str, Any], ops: str) -> None:
    with LLM.from_state_dict(page["spec"], page["model"].state_dict(), table=page["table"], ops=ops, kv_dtype="f32") as llm:
        for prompt in PROMPTS:
            np.testing.assert_allclose(llm.logits(prompt), torch_logits(page, prompt), rtol=0, atol=1e-4)
        greedy = SamplingParams(temperature=0.0, max_tokens=12)
        together = [completion.token_ids for completion in llm.generate(PROMPTS, greedy)]
        assert together == [llm.generate(prompt, greedy)[0].token_ids for prompt in PROMPTS]
        for prompt, answer in zip(PROMPTS, together, strict=True):
            rows = torch_logits(page, prompt + answer)[len(prompt) - 1 : -1]
            best = np.sort(rows, axis=1)[:, -1]
            np.testing.assert_allclose(rows[range(12), answer], best, rtol=0, atol=1e-4)


@pytest.mark.parametrize("ops", ["reference", "native"])
def test_its_weights_can_be_quantized(page: dict[str, Any], ops: str) -> None:
    with LLM.from_state_dict(page["spec"], page["model"].state_dict(), table=page["table"], ops=ops, weights="q8_0") as llm:
        expected = torch_logits(page, PROMPTS[1])
        difference = np.abs(llm.logits(PROMPTS[1]) - expected).max()
        assert 1e-4 < difference < 0.05 * np.abs(expected).max()


def test_mistakes_are_named(page: dict[str, Any]) -> None:
    spec, state, table = page["spec"], page["model"].state_dict(), page["table"]
    with pytest.raises(UnsupportedModelError, match=r"spec\.family is 'mine'; .* another needs a table of its own"):
        LLM.from_state_dict(spec, state)
    with pytest.raises(InvalidRequestError, match=r"a table goes with a ModelSpec, and config is a dict"):
        LLM.from_state_dict({"model_type": "llama"}, state, table=table)
    wrong = replace(spec, layers=(replace(spec.layers[0], mixer=replace(spec.layers[0].attention, alibi=(0.5,))),))
    with pytest.raises(ModelFileError, match=r"spec: no such mine model can be: layer 0: 1 alibi slopes for 4 heads"):
        LLM.from_state_dict(wrong, state, table=table)
    state["blocks.1.down.weight"] = state.pop("blocks.1.up.bias")
    with pytest.raises(ModelFileError, match=r"missing: blocks\.1\.up\.bias; of the wrong shape: blocks\.1\.down\.weight is \[96\]"):
        LLM.from_state_dict(spec, state, table=table)

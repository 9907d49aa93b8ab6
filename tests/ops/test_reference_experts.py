"""Mixtures of experts of the reference op set against the routers and experts of transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from reference_steps import Floats, double, normal
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Experts, DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Experts, DeepseekV3TopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts, GptOssTopKRouter
from transformers.models.mixtral.modeling_mixtral import MixtralExperts, MixtralTopKRouter
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts, Qwen2MoeTopKRouter

from linnet.arch.spec import Mlp, Moe, Router
from linnet.ops.reference import ReferenceOps, route
from linnet.weights import Linear, MlpWeights

HIDDEN, WIDTH, EXPERTS, ROWS = 24, 20, 12, 31
SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "moe_intermediate_size": WIDTH,
    "num_local_experts": EXPERTS,
    "num_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "num_attention_heads": 4,
}
MIXTRAL = (transformers.MixtralConfig, MixtralTopKRouter, MixtralExperts)
QWEN2_MOE = (transformers.Qwen2MoeConfig, Qwen2MoeTopKRouter, Qwen2MoeExperts)
DEEPSEEK_V2 = (transformers.DeepseekV2Config, DeepseekV2TopkRouter, DeepseekV2Experts)
DEEPSEEK_V3 = (transformers.DeepseekV3Config, DeepseekV3TopkRouter, DeepseekV3Experts)
GPT_OSS = (transformers.GptOssConfig, GptOssTopKRouter, GptOssExperts)
GROUPS = {"n_group": 4, "topk_group": 2}
CASES: dict[str, tuple[Any, dict[str, Any], Router]] = {
    "mixtral": (MIXTRAL, {"num_experts_per_tok": 2}, Router(2)),
    "mixtral, one expert": (MIXTRAL, {"num_experts_per_tok": 1}, Router(1)),
    "mixtral, all experts": (MIXTRAL, {"num_experts_per_tok": EXPERTS}, Router(EXPERTS)),
    "qwen2_moe": (QWEN2_MOE, {"num_experts_per_tok": 4, "norm_topk_prob": False}, Router(4, normalise=False)),
    "qwen2_moe, normalised": (QWEN2_MOE, {"num_experts_per_tok": 4, "norm_topk_prob": True}, Router(4)),
    "deepseek_v2, greedy": (
        DEEPSEEK_V2,
        {"num_experts_per_tok": 4, "topk_method": "greedy", "routed_scaling_factor": 2.5, "n_group": None, "topk_group": None},
        Router(4, normalise=False, scale=2.5),
    ),
    "deepseek_v2, groups": (
        DEEPSEEK_V2,
        {"num_experts_per_tok": 5, "topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0, **GROUPS},
        Router(5, normalise=False, scale=16.0, groups=4, active_groups=2),
    ),
    "deepseek_v3": (
        DEEPSEEK_V3,
        {"num_experts_per_tok": 5, "norm_topk_prob": True, "routed_scaling_factor": 2.5, **GROUPS},
        Router(5, "sigmoid", scale=2.5, groups=4, active_groups=2, corrected=True),
    ),
    "deepseek_v3, not normalised, one group": (
        DEEPSEEK_V3,
        {"num_experts_per_tok": 3, "norm_topk_prob": False, "routed_scaling_factor": 1.0, "n_group": 1, "topk_group": 1},
        Router(3, "sigmoid", normalise=False, corrected=True),
    ),
    "gpt_oss": (GPT_OSS, {"num_experts_per_tok": 4}, Router(4, "softmax_chosen")),
}


def modules(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A router and experts of transformers with random weights, in float64."""
    (config_class, router_class, experts_class), extra, _ = CASES[name]
    config = config_class(**SIZES, **extra)
    config._experts_implementation = "eager"
    generator = torch.Generator().manual_seed(3)
    router, experts = router_class(config), experts_class(config)
    for module in (router, experts):
        for tensor in (*module.parameters(), *module.buffers()):
            # Such as float32 holds exactly, so that both sides compute with the same.
            tensor.data = torch.randn(tensor.shape, generator=generator).mul(0.4)
    return router.double(), experts.double()


def weights_of(experts: torch.nn.Module) -> MlpWeights:
    state = {name: tensor.float().numpy() for name, tensor in experts.state_dict().items()}
    if "gate_up_proj_bias" in state:  # gpt-oss: transposed, gate and up in turns
        gate_up, down = state["gate_up_proj"].swapaxes(1, 2), state["down_proj"].swapaxes(1, 2)
        biases = state["gate_up_proj_bias"]
        gate, up = (Linear(gate_up[:, i::2], biases[:, i::2]) for i in (0, 1))
        return MlpWeights(up, Linear(down, state["down_proj_bias"]), gate)
    gate_up = state["gate_up_proj"]
    return MlpWeights(Linear(gate_up[:, WIDTH:]), Linear(state["down_proj"]), Linear(gate_up[:, :WIDTH]))


@pytest.mark.parametrize("name", CASES)
def test_routers_choose_and_weigh_as_transformers_does(name: str) -> None:
    router, _ = modules(name)
    x = double(normal(np.random.default_rng(7), 500, HIDDEN))
    with torch.no_grad():
        logits, theirs, chosen = router(x)
    correction = getattr(router, "e_score_correction_bias", None)
    correction = None if correction is None else correction.float().numpy()
    for row, shares, experts in zip(logits.float().numpy(), theirs.float().numpy(), chosen.numpy(), strict=True):
        ours = route(row, CASES[name][2], correction)
        assert sorted(expert for expert, _ in ours) == sorted(experts)
        expected = dict(zip(experts.tolist(), shares.tolist(), strict=True))
        for expert, share in ours:
            assert share == pytest.approx(expected[expert], rel=2e-5)
        if correction is None:
            assert [share for _, share in ours] == sorted((share for _, share in ours), reverse=True)


@pytest.mark.parametrize("name", CASES)
def test_mixtures_are_those_of_transformers(name: str) -> None:
    router, experts = modules(name)
    x = normal(np.random.default_rng(7), ROWS, HIDDEN)
    with torch.no_grad():
        logits, shares, chosen = router(double(x))
        expected = experts(double(x), chosen, shares)
    correction = getattr(router, "e_score_correction_bias", None)
    moe = Moe(EXPERTS, Mlp(WIDTH, "clamped_swiglu" if name == "gpt_oss" else "silu"), CASES[name][2])
    arguments = (weights_of(experts), moe, None if correction is None else correction.float().numpy())
    ours = ReferenceOps().experts(x, logits.float().numpy(), *arguments)
    scale = float(expected.abs().max())
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-4, atol=1e-6 * scale)
    # No row looks at another: bitwise.
    parts = [ReferenceOps().experts(x[a:b], logits.float().numpy()[a:b], *arguments) for a, b in ((0, 1), (1, 17), (17, ROWS))]
    np.testing.assert_array_equal(np.concatenate(parts), ours)


@pytest.mark.parametrize("biased", [False, True])
def test_plain_experts(biased: bool) -> None:
    """Experts without a gate, by their definition."""
    random = np.random.default_rng(2)
    up, down = normal(random, 3, WIDTH, HIDDEN), normal(random, 3, HIDDEN, WIDTH)
    biases = [normal(random, 3, WIDTH), normal(random, 3, HIDDEN)] if biased else [None, None]
    x, logits = normal(random, 5, HIDDEN), normal(random, 5, 3)
    moe = Moe(3, Mlp(WIDTH, "relu", gated=False), Router(2))
    ours = ReferenceOps().experts(x, logits, MlpWeights(Linear(up, biases[0]), Linear(down, biases[1])), moe, None)
    for row, scores, result in zip(x, logits, ours, strict=True):
        expected = torch.zeros(HIDDEN).double()
        values, chosen = torch.softmax(double(scores), 0).topk(2)
        for share, expert in zip(values / values.sum(), chosen.tolist(), strict=True):
            hidden = torch.relu(double(up[expert]) @ double(row) + (double(biases[0][expert]) if biased else 0))
            expected += share * (double(down[expert]) @ hidden + (double(biases[1][expert]) if biased else 0))
        np.testing.assert_allclose(result, expected.numpy(), rtol=1e-4, atol=1e-5)


def floats(*values: float) -> Floats:
    return np.array(values, np.float32)


def test_ties_go_to_the_smaller_index() -> None:
    assert [expert for expert, _ in route(floats(1, 2, 2, 1, 2), Router(3), None)] == [1, 2, 4]
    assert [expert for expert, _ in route(floats(1, 1, 1, 1), Router(2, groups=2, active_groups=1), None)] == [0, 1]
    assert [expert for expert, _ in route(floats(0, 0, 0, 0), Router(2, "sigmoid", corrected=True), floats(0, 1, 0, 1))] == [1, 3]


def test_a_correction_chooses_and_does_not_weigh() -> None:
    scores, correction = floats(2, 0, -2), floats(-9, 0, 0)
    ours = dict(route(scores, Router(2, "sigmoid", normalise=False, corrected=True), correction))
    expected = torch.sigmoid(double(scores))
    assert ours == {1: pytest.approx(float(expected[1])), 2: pytest.approx(float(expected[2]))}


def test_logits_of_any_size_give_numbers() -> None:
    for scoring in ("softmax", "sigmoid", "softmax_chosen"):
        for scores in (floats(1e30, 0, -1e30), floats(-1e30, -1e30, -1e30)):
            shares = [share for _, share in route(scores, Router(2, scoring), None)]
            assert np.isfinite(shares).all()

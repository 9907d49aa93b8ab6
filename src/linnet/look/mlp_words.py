"""Feed-forward blocks and mixtures of experts in words."""

from __future__ import annotations

from linnet.arch.spec import Activation, Mlp, Moe, Router
from linnet.look.phrases import norm_words, number

ACTIVATIONS: dict[Activation, str] = {
    "silu": "SiLU",
    "gelu": "GELU",
    "gelu_tanh": "GELU (by tanh)",
    "relu": "ReLU",
    "relu_squared": "ReLU squared",
    "sigmoid": "sigmoid",
    "clamped_swiglu": "SwiGLU clamped at 7",
}


def mlp_facts(mlp: Mlp | Moe) -> dict[str, list[str]]:
    """By topic: of a dense block, or of a mixture's experts, their router and what all tokens share."""
    if isinstance(mlp, Mlp):
        return {"feed-forward": [_block(mlp)]}
    experts = [f"{mlp.experts}, each {_block(mlp.expert)}", f"{mlp.router.active} for a token"]
    if mlp.branch_norm is not None:
        experts.append(f"{norm_words(mlp.branch_norm)} of its own before experts and router, and after experts and shared expert")
    facts = {"experts": experts, "router": _router_facts(mlp.router)}
    if mlp.shared is not None:
        gate = ", weighed by a sigmoid" if mlp.shared_gated else ""
        facts["shared expert"] = [f"{_block(mlp.shared)}{gate}"]
    return facts


def _block(mlp: Mlp) -> str:
    return f"{mlp.width} wide, {'gated by' if mlp.gated else 'not gated,'} {ACTIVATIONS[mlp.activation]}"


def _router_facts(router: Router) -> list[str]:
    scores = {
        "softmax": "softmax over all experts",
        "sigmoid": "a sigmoid for each expert",
        "softmax_chosen": "softmax over the chosen experts",
    }
    facts = [scores[router.scoring]]
    if router.corrected:
        facts.append("scores corrected by a learned value for choosing")
    if router.groups > 1:
        facts.append(f"chosen from the best {router.active_groups} of {router.groups} groups")
    facts.append("weights divided by their sum" if router.normalise else "weights as they are")
    if router.scale != 1.0:
        facts.append(f"weights times {number(router.scale)}")
    if router.rescaled:
        facts.append("weights times a learned value of each expert")
    if router.input_scale != 1.0:
        facts.append(f"input times {number(router.input_scale)}")
    return facts

"""A spec in words: every choice of `linnet.arch.spec` that a model makes is said, and none that it does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from linnet.arch.spec import Layer, ModelSpec, Norm, PerLayer
from linnet.look.attention_words import mixer_facts
from linnet.look.mlp_words import ACTIVATIONS, mlp_facts
from linnet.look.phrases import joined, norm_words, number, numbers

Facts = dict[str, list[str]]
"""By topic, each by itself a thing to say."""


@dataclass(frozen=True)
class Section:
    """What is said of one part of a model: a title, and facts by topic."""

    title: str
    facts: Facts


def describe(spec: ModelSpec) -> list[Section]:
    """The model as a whole, what all layers have in common, what each kind of layer has of its own, and the output."""
    count = len(spec.layers)
    whole = f"{spec.family}: {count} {'layer' if count == 1 else 'layers'}, hidden size {spec.hidden}, context {spec.context}"
    return [
        Section(whole, {"embedding": embedding_facts(spec), **({"prompt": prompt} if (prompt := prompt_facts(spec)) else {})}),
        *layer_sections(spec.layers, spec.context),
        Section("after the last layer", {"output": output_facts(spec)}),
    ]


def kinds_of_layers(layers: Iterable[Layer]) -> dict[Layer, list[int]]:
    """The different layers, and the numbers of those that are alike."""
    kinds: dict[Layer, list[int]] = {}
    for index, layer in enumerate(layers):
        kinds.setdefault(layer, []).append(index)
    return kinds


def layer_sections(layers: Sequence[Layer], context: int) -> list[Section]:
    kinds = kinds_of_layers(layers)
    facts = {layer: layer_facts(layer, context) for layer in kinds}
    common = _common(list(facts.values()))
    sections = [Section("every layer", common)] if common else []
    if len(kinds) > 1:
        titles = {layer: f"{'layer' if len(found) == 1 else 'layers'} {numbers(found)}" for layer, found in kinds.items()}
        sections += [Section(title, _without(facts[layer], common)) for layer, title in titles.items()]
    return sections


def layer_facts(layer: Layer, context: int) -> Facts:
    facts = {
        **mixer_facts(layer.mixer, context),
        **mlp_facts(layer.mlp),
        "per-layer embedding": per_layer_facts(layer.per_layer),
        "norms": norm_facts(layer),
        "residual": sum_facts(layer),
    }
    return {topic: said for topic, said in facts.items() if said}


def norm_facts(layer: Layer) -> list[str]:
    """Where a layer normalises, grouped by how."""
    places: dict[Norm, list[str]] = {}
    for norm, place in (
        (layer.attention_norm, "before attention"),
        (layer.attention_post_norm, "after attention"),
        (layer.attention_sum_norm, "of the sum after attention"),
        (layer.mlp_norm, "before the feed-forward block"),
        (layer.mlp_post_norm, "after the feed-forward block"),
        (layer.mlp_sum_norm, "of the sum after the feed-forward block"),
    ):
        if norm is not None:
            places.setdefault(norm, []).append(place)
    return [f"{norm_words(norm)} {joined(where)}" for norm, where in places.items()] or ["none"]


def per_layer_facts(per_layer: PerLayer | None) -> list[str]:
    if per_layer is None:
        return []
    return [f"{per_layer.width} wide, gated by {ACTIVATIONS[per_layer.activation]}", f"{norm_words(per_layer.norm)} of it"]


def sum_facts(layer: Layer) -> list[str]:
    """How what a layer's blocks give is added up."""
    facts = []
    if layer.remixed:
        facts.append("the input is first mixed with the first layer's input, by two learned factors")
    if layer.parallel:
        facts.append("attention and feed-forward block side by side")
    if layer.residual == "normed":
        facts.append("added to the normalised input")
    if layer.residual_scale != 1.0:
        facts.append(f"what is added to, times {number(layer.residual_scale)}")
    if layer.branch_scale != 1.0:
        facts.append(f"what is added, times {number(layer.branch_scale)}")
    if layer.rescaled:
        facts.append("the output times a learned number")
    return facts


def embedding_facts(spec: ModelSpec) -> list[str]:
    embedding = spec.embedding
    width = spec.hidden if embedding.width is None else embedding.width
    facts = [f"{spec.vocab_size} rows of {width}"]
    if embedding.width is not None:
        facts.append(f"projected to {spec.hidden} and, before the output, back")
    if embedding.scale != 1.0:
        facts.append(f"times {number(embedding.scale)}")
    if embedding.positions is not None:
        positions = embedding.positions
        offset = f" from row {positions.offset} on" if positions.offset else ""
        facts.append(f"plus {positions.kind} positions, {positions.count} rows{offset}")
    if embedding.norm is not None:
        facts.append(f"{norm_words(embedding.norm)} of it")
    if embedding.smear is not None:
        facts.append(f"plus a share of the previous token's, decided by the first {embedding.smear} columns")
    return facts


def prompt_facts(spec: ModelSpec) -> list[str]:
    return ["its tokens but for the last see each other, whatever their order"] if spec.bidirectional_prompt else []


def output_facts(spec: ModelSpec) -> list[str]:
    output = spec.output
    facts = []
    if spec.backout is not None:
        facts.append(f"less the output of layer {spec.backout}, times a learned factor")
    facts.append("no final norm" if spec.final_norm is None else f"final {norm_words(spec.final_norm)}")
    facts.append("the embedding's matrix (tied)" if spec.tied else "a matrix of its own")
    if output.scale != 1.0:
        facts.append(f"logits times {number(output.scale)}")
    if output.softcap is not None:
        facts.append(f"logits softly capped at {number(output.softcap)}")
    return facts


def _common(all_facts: Iterable[Facts]) -> Facts:
    """What is said of every one."""
    first, *others = all_facts
    common = {topic: [fact for fact in said if all(fact in other.get(topic, ()) for other in others)] for topic, said in first.items()}
    return {topic: said for topic, said in common.items() if said}


def _without(facts: Facts, common: Facts) -> Facts:
    left = {topic: [fact for fact in said if fact not in common.get(topic, ())] for topic, said in facts.items()}
    return {topic: said for topic, said in left.items() if said}

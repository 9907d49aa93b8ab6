"""What different tokenizers know their merges by: pairs in order, ranks of results, scores of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


def merges_of_ranks(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """The pair that each token is merged from, by rank: what merging its bytes comes to with tokens of lower ranks alone.

    A token that these do not lead to in two parts is never made by merging.
    """
    for token, rank in sorted(ranks.items(), key=lambda entry: entry[1]):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            if ranks.get(parts[best] + parts[best + 1], rank) >= rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            yield parts[0], parts[1]


def scores_of_merges(tokens: Sequence[str | None], merges: Sequence[str | Sequence[str]], unreached: float) -> list[float]:
    """A score for each token, higher for what is merged earlier; `unreached` for what nothing is merged to."""
    order: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        order.setdefault(left + right, rank)
    return [unreached if token is None or token not in order else -float(order[token]) for token in tokens]

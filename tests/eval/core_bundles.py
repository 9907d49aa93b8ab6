"""A small CORE bundle: each kind of task, with and without shots."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

COUNTRIES = {"Italy": "Rome", "France": "Paris", "Germany": "Berlin", "Spain": "Madrid", "Norway": "Oslo", "Japan": "Tokyo"}

TASKS = """
icl_tasks:
- label: capitals
  dataset_uri: world/capitals.jsonl
  num_fewshot: [2]
  icl_task_type: multiple_choice
  continuation_delimiter: "\\nAnswer: "
- label: capitals_zeroshot
  dataset_uri: world/capitals.jsonl
  num_fewshot: [0]
  icl_task_type: multiple_choice
  has_categories: true
- label: pronouns
  dataset_uri: pronouns.jsonl
  num_fewshot: [1]
  icl_task_type: schema
- label: sums
  dataset_uri: sums.jsonl
  num_fewshot: [3]
  icl_task_type: language_modeling
"""

CHANCES = """Eval Task,Task Category,Random baseline,Centered Metric?
capitals,world knowledge,25,
capitals_zeroshot,world knowledge,25.0,
pronouns,language,50,x
sums,symbols,0,
unused,symbols,,
"""


def write_bundle(folder: Path) -> Path:
    draw = random.Random(3)
    data: dict[str, list[dict[str, Any]]] = {"world/capitals": [], "pronouns": [], "sums": []}
    cities = list(COUNTRIES.values())
    for index in range(10):
        country, city = draw.choice(list(COUNTRIES.items()))
        gold = draw.randrange(4)
        choices = draw.sample([other for other in cities if other != city], 3)
        choices.insert(gold, city)
        query = f"{index}. What is the capital of {country}?"
        data["world/capitals"].append({"query": query, "choices": choices, "gold": gold, "category": "world"})
        places = draw.sample(list(COUNTRIES), 2)
        options = [f"The capital of {place} is" for place in places]
        data["pronouns"].append({"context_options": options, "continuation": f"{COUNTRIES[places[index % 2]]}.", "gold": index % 2})
        a, b = draw.randrange(10), draw.randrange(10)
        data["sums"].append({"context": f"  {a} + {b} = \n", "continuation": str(a + b)})
    for name, rows in data.items():
        path = folder / "eval_data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "core.yaml").write_text(TASKS)
    (folder / "eval_meta_data.csv").write_text(CHANCES)
    return folder

"""A small task of our own: the end of a well-known saying, out of three."""

from __future__ import annotations

import json
from pathlib import Path

YAML = """\
task: sayings
dataset_path: json
dataset_kwargs:
  data_files:
    test: sayings.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{start}}"
doc_to_target: "{{answer}}"
doc_to_choice: "{{ends}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
"""

ITEMS = (
    ("A bird in the hand is worth two in the", ("bush", "kettle", "office window"), 0),
    ("You cannot teach an old dog new", ("clouds", "tricks", "taxes on paper"), 1),
    ("The sun rises in the", ("fridge", "east", "shoe"), 1),
    ("Ice melts when it gets", ("blue", "quiet", "warm enough"), 2),
    ("Many hands make light", ("work", "lamps of stone", "of"), 0),
    ("Better late than", ("soup", "never", "a hundred umbrellas"), 1),
)


def write_task(folder: Path, yaml: str = YAML, name: str = "sayings") -> Path:
    """The YAML file, with its items beside it."""
    lines = [json.dumps({"start": start, "ends": ends, "answer": answer}) for start, ends, answer in ITEMS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sayings.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / f"{name}.yaml"
    path.write_text(yaml)
    return path

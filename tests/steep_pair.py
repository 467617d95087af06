"""A fine-tuning whose path two nodes cannot follow: a tiny BERT, tuned fast on two tasks at once.

    python -m tests.steep_pair tests/pairs/steep

With 2 nodes the attributions miss most of the change and name another layer than with 64. The files
are kept in the tree: 30 steps at this rate need not end alike on every machine.
"""

import copy
import json
import sys
from pathlib import Path

import torch

from tests.folders import SIZES, WORDS, saved, transformers
from tests.tiny import seeded

STEEP = Path(__file__).parent / "pairs" / "steep"
SEED, STEPS, RATE, TEXTS = 1, 30, 0.03, 16
SPECIAL = 4
"""Tokens before the first word."""


def write_steep_pair(folder: Path) -> None:
    """Write `base`, `tuned` and `texts.jsonl`."""
    draw = torch.Generator().manual_seed(SEED)
    words = {name: torch.randint(len(WORDS), (TEXTS, 6), generator=draw) for name in TASKS}
    labels = {name: task(words[name]).long() for name, task in TASKS.items()}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**SIZES, num_labels=2, **dropout)
    base = seeded(lambda: transformers.BertForSequenceClassification(config), SEED)
    tuned = copy.deepcopy(base).train()
    optimizer = torch.optim.Adam(tuned.parameters(), lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        sum(tuned(words[n] + SPECIAL, labels=labels[n]).loss for n in TASKS).backward()
        optimizer.step()
    saved(base.eval(), folder / "base")
    saved(tuned.eval(), folder / "tuned")
    lines = [
        {"text": " ".join(WORDS[n] for n in row), "label": label, "condition": name}
        for name in TASKS
        for row, label in zip(words[name].tolist(), labels[name].tolist(), strict=True)
    ]
    (folder / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


TASKS = {
    "food": lambda words: ((words > 0) & (words < 12)).sum(1) > 2,
    "heat": lambda words: words[:, 0] > words[:, -1],
}
"""What is asked of the words of a text."""


if __name__ == "__main__":
    write_steep_pair(Path(sys.argv[1]))

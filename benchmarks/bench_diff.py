"""`paramattr diff` at GPT-2's size, random weights: seconds, memory, resumed after SIGKILL.

python -m benchmarks.bench_diff --name diff_gpt2
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks.environment import write_result
from paramattr.commands.diff.experiment import PROGRESS_FILE

END = "<|end|>"


def main() -> None:
    """Make a pair and texts, run the command, kill it once, and keep what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--name", default="local/diff")
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        parameters = make(folder, options.layers, options.texts, options.tokens)
        words = ["diff", "base", "tuned", "--data", "texts.jsonl", "--objective", "next-token"]
        words += ["--units", "attention_head,neuron", "--steps", str(options.steps)]
        words += ["--draws", str(options.draws), "--batch-size", "4", "--out", "found", "--json"]
        killed = kill(words, folder)
        started = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-m", "paramattr", *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            check=True,
        )
        seconds = time.perf_counter() - started
        found = json.loads(ran.stdout)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    write_result(
        options.name,
        " ".join(["paramattr", *words]),
        {
            "parameters": parameters,
            "texts": options.texts,
            "tokens": options.tokens,
            "killed_after_seconds": round(killed, 1),
            "resumed_seconds": round(seconds, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_gib": round(usage.ru_maxrss / 2**20, 2),
            "units": found["units"],
            "gradients": found["gradients"],
            "passes": found["passes"],
            "top": [row for row in found["top"] if row["place"] == 1],
        },
    )


def make(folder: Path, layers: int, texts: int, tokens: int) -> int:
    """Write a base of GPT-2's shape, the same with one head and one neuron altered, and texts."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=layers)
    base = GPT2LMHeadModel(config)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        block: Any = tuned.transformer.h[layers // 2]
        block.attn.c_proj.weight[64 * 3 : 64 * 4] += 0.2 * torch.randn(64, 768)
        block.mlp.c_proj.weight[17] += 0.2 * torch.randn(768)
    vocabulary = {f"w{number}": number for number in range(config.vocab_size - 1)}
    vocabulary[END] = config.vocab_size - 1
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token=END, pad_token=END)
    for model, name in ((base, "base"), (tuned, "tuned")):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    drawn = torch.randint(config.vocab_size - 1, (texts, tokens))
    lines = [json.dumps({"text": " ".join(f"w{n}" for n in row)}) for row in drawn.tolist()]
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")
    return count(base)


def kill(words: list[str], folder: Path, enough: int = 4) -> float:
    """Start the command, and end it by SIGKILL once it has kept its sums a few times."""
    file = folder / "found" / PROGRESS_FILE
    started = time.perf_counter()
    running = subprocess.Popen(
        [sys.executable, "-m", "paramattr", *words], cwd=folder, stdout=subprocess.DEVNULL
    )
    written: set[int] = set()
    while running.poll() is None and len(written) < enough:
        if file.exists():
            written.add(file.stat().st_mtime_ns)
        time.sleep(0.1)
    if running.poll() is not None:
        raise SystemExit("the command ended before it could be killed")
    running.send_signal(signal.SIGKILL)
    running.wait()
    return time.perf_counter() - started


def count(model: nn.Module) -> int:
    """Count the parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()

"""Training of one network: L1, Adam, averaged weights, resumable after a kill."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import MISSING, asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from blind_sr.data.degradations import degrade
from blind_sr.data.measures import psnr
from blind_sr.data.patches import Patches
from blind_sr.models.networks import build
from blind_sr.run import write_rows
from blind_sr.training.curves import draw_curves
from blind_sr.training.recipe import STAGES, Recipe
from paramattr import Selection, retrain_only
from paramattr.errors import CheckpointError
from paramattr.files.reading import load_torch_file, save_state_dict, taken_apart
from paramattr.files.resume import check_stamp
from paramattr.files.writing import AGAIN, progress_is_in, write_whole

VALIDATE_EVERY = 200
SAVE_EVERY = 50


def train_stage(
    recipe: Recipe,
    photographs: Sequence[UInt8[Tensor, "3 h w"]],
    held_out: Float[Tensor, "n 3 s s"] | None,
    out: str | Path,
    *,
    initial: dict[str, Tensor] | None = None,
    selection: Selection | None = None,
    resume: bool = False,
    force: bool = False,
    console: Console | None = None,
) -> Path:
    """Train one stage and keep the averaged weights that did best on the held-out photographs.

    A folder that holds the weights of a stage without held-out photographs holds all of it.

    Args:
        recipe: what to train, and how.
        photographs: 8-bit training photographs.
        held_out: validation crops in [0, 1]; with None, the last averaged weights are kept.
        out: folder for `NETWORK_STAGE.safetensors`, the log (`.csv`), its curves (`.png`) and the
            running state (`.ckpt`).
        initial: weights to start from; the target starts from the baseline's.
        selection: the entries that alone are trained; all by default.
        resume: resume from the running state where there is one.
        force: start afresh over what is there.
        console: where to draw the progress bar; none by default.

    Returns:
        The path of the weights.

    Raises:
        CheckpointError: if `out` already holds this stage and neither `resume` nor `force` is
            set, or if the running state belongs to another recipe.
    """
    out = Path(out)
    check_free(recipe, out, resume=resume, force=force)
    out.mkdir(parents=True, exist_ok=True)
    weights, log, curves, state = _files(recipe, out)
    run = _Run(recipe, initial, selection, state)
    if state.exists() and resume:
        run.load()
    else:
        run.save()  # before the weights: who finds them without a state finds another run's
    progress_is_in(state, AGAIN if resume else "run the same command with --resume to resume")
    patches = Patches(
        photographs,
        side=recipe.patch,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        degradation=STAGES[recipe.stage][0],
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[quality]}"),
    )
    console = console or Console(quiet=True)
    with Progress(*columns, console=console, disable=console.quiet) as progress:
        task = progress.add_task(recipe.stem.replace("_", " "), total=recipe.iterations, quality="")
        while True:
            finished = run.iteration == recipe.iterations
            if (run.iteration % VALIDATE_EVERY == 0 or finished) and not run.validated():
                quality = run.validate(held_out)
                if quality is not None and quality > run.best:
                    run.best = quality
                    run.keep(weights, psnr=quality)
                write_rows(log, run.rows)
                if held_out is not None or finished:
                    draw_curves(curves, run.rows, recipe.stem.replace("_", " "))
            if run.iteration % SAVE_EVERY == 0 or finished:
                run.save()
            best = "" if held_out is None else f"{run.best:.2f} dB"
            progress.update(task, completed=run.iteration, quality=best)
            if finished:
                break
            run.step(*patches.batch(run.iteration))
    if held_out is None:  # after all else: who finds the weights finds a finished stage
        run.keep(weights)
    return weights


def check_free(recipe: Recipe, out: str | Path, *, resume: bool, force: bool) -> None:
    """Refuse to train over what a folder holds, unless asked to.

    Raises:
        CheckpointError: if `out` already holds this stage and neither `resume` nor `force` is set.
    """
    weights, _, _, state = _files(recipe, Path(out))
    if (weights.exists() or state.exists()) and not (force or (resume and state.exists())):
        raise CheckpointError(
            f"folder {out} already holds {recipe.stem}: give --resume to resume it, --force to "
            "start afresh over it, or another folder"
        )


def _files(recipe: Recipe, out: Path) -> list[Path]:
    return [out / f"{recipe.stem}.{suffix}" for suffix in ("safetensors", "csv", "png", "ckpt")]


class _Run:
    """The state of a stage that changes while it trains; all of it is saved and restored."""

    def __init__(
        self,
        recipe: Recipe,
        initial: dict[str, Tensor] | None,
        selection: Selection | None,
        state_file: Path,
    ) -> None:
        self.recipe, self.state_file = recipe, state_file
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = build(recipe.network)
        if initial is not None:
            model.load_state_dict(initial)
        model = model.to(recipe.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model if selection is None else retrain_only(model, selection)
        self.average = AveragedModel(self.model, multi_avg_fn=partial(average, recipe.ema))
        self.optimiser = torch.optim.Adam(
            self.model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99)
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser,
            max_lr=recipe.learning_rate,
            total_steps=recipe.iterations + 1,
            cycle_momentum=False,
        )
        self.iteration, self.best, self.seconds = 0, float("-inf"), 0.0
        self.losses: list[float] = []
        self.rows: list[dict[str, float | None]] = []

    def step(self, low: Tensor, high: Tensor) -> None:
        started = time.monotonic()
        device = self.recipe.device
        low = low.to(device, memory_format=torch.channels_last)
        half = self.recipe.precision == "bfloat16"
        kind = torch.device(device).type
        with torch.autocast(kind, torch.bfloat16) if half else nullcontext():
            output = self.model(low)
        loss = F.l1_loss(output.float(), high.to(device))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        self.average.update_parameters(self.model)
        self.losses.append(loss.item())
        self.iteration += 1
        self.seconds += time.monotonic() - started

    def validated(self) -> bool:
        return bool(self.rows) and self.rows[-1]["iteration"] == self.iteration

    @torch.no_grad()
    def validate(self, held_out: Tensor | None) -> float | None:
        row: dict[str, float | None] = {
            "iteration": self.iteration,
            "loss": float(np.mean(self.losses)) if self.losses else None,
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            "seconds": round(self.seconds, 1),
        }
        model: nn.Module = self.average.module.eval()
        qualities: list[float] = []
        if held_out is not None:
            for condition in STAGES[self.recipe.stage][1]:
                low = degrade(held_out, condition, torch.Generator().manual_seed(0))
                low = low.to(self.recipe.device)
                output = torch.cat([model(one) for one in low.split(1)]).cpu()
                qualities.append(float(psnr(output, held_out).mean()))
                row[f"psnr_{condition}"] = qualities[-1]
        self.losses = []
        self.rows.append(row)
        return float(np.mean(qualities)) if qualities else None

    def keep(self, weights: Path, **metadata: Any) -> None:
        kept = {**asdict(self.recipe), "iteration": self.iteration, **metadata}
        save_state_dict(weights, self.average.module.state_dict(), kept)

    def save(self) -> None:
        file = io.BytesIO()
        parts: dict[str, Any] = {name: part.state_dict() for name, part in self._parts().items()}
        torch.save(
            {
                **parts,
                "recipe": asdict(self.recipe),
                "iteration": self.iteration,
                "best": self.best,
                "seconds": self.seconds,
                "losses": self.losses,
                "rows": self.rows,
            },
            file,
        )
        write_whole(self.state_file, file.getvalue())

    def load(self) -> None:
        with taken_apart(self.state_file, "a training"):
            self._take(load_torch_file(self.state_file, self.recipe.device))

    def _take(self, state: dict[str, Any]) -> None:
        # A state from before a field was there was made with its default.
        defaults = {f.name: f.default for f in fields(Recipe) if f.default is not MISSING}
        check_stamp(
            {**defaults, **state["recipe"]},
            asdict(self.recipe),
            f"the running state {self.state_file}",
            "give the same options, another folder, or --force to start afresh",
        )
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.iteration, self.best = state["iteration"], state["best"]
        self.seconds, self.losses, self.rows = state["seconds"], state["losses"], state["rows"]

    def _parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "average": self.average,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
        }


@torch.no_grad()
def average(ema: float, averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
    """Move averaged weights towards the current ones; a short run's less than `ema` would.

    Args:
        ema: decay; less in the first iterations, (1 + n) / (10 + n).
        averaged: moved in place.
        current: the weights now.
        count: iterations before.
    """
    decay = min(ema, (1 + int(count)) / (10 + int(count)))
    # What is not trained keeps its bits: between two negative zeros, lerp finds a positive one.
    moved = [k for k, own in enumerate(averaged) if not torch.equal(own, current[k])]
    if moved:
        torch._foreach_lerp_([averaged[k] for k in moved], [current[k] for k in moved], 1 - decay)

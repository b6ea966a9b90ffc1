"""TRL's `SFTTrainer` for commentary: loss at supervised positions, skipped samples, checkpoints that resume."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, rotate_checkpoints
from transformers.utils import PushInProgress
from trl import SFTTrainer

from livecc_hf.checkpoints.cards import preserve_card, set_aside_card
from livecc_hf.data.batches.loader import BOOKKEEPING, BatchLoader
from livecc_hf.data.samples.pixels import normalise_pixels
from livecc_hf.data.samples.sample import IGNORE_INDEX

from .model.packed_attention import packed_batch, sample_lengths
from .model.sharding import reduce_head_gradient
from .rows import rows_per_step
from .saving.checkpoints import RunState, explain_damage, write_run_state
from .saving.run_identity import RunIdentity
from .token_means import TokenMeans

if TYPE_CHECKING:
    from pathlib import Path

    from torch.utils.data import DataLoader, Dataset

    from livecc_hf.data.batches.loader import SkippedSample

    from .saving.pushing import RunPush
    from .skipping import SkipLedger

logger = logging.getLogger(__name__)


class LiveCCTrainer(SFTTrainer):
    """`SFTTrainer` on the batches of a `BatchLoader`, with exact resume and push of complete folders.

    Args:
        ledger: counts skipped samples; `None` if the trainer only evaluates.
        identity: the run's identity, stored in checkpoints.
        finish_save: called with each saved folder, on the process that saves.
        hub: pushes folders to the Hub; `None` if `push_to_hub` is off.
        held_out_loader: makes the batches of held-out samples for `evaluate`.
        **keywords: passed to `SFTTrainer`.
    """

    data_collator: BatchLoader
    push_in_progress: PushInProgress | None

    def __init__(
        self,
        *,
        ledger: SkipLedger | None = None,
        identity: RunIdentity | None = None,
        finish_save: Callable[[str | Path], None] | None = None,
        held_out_loader: BatchLoader | None = None,
        hub: RunPush | None = None,
        **keywords: Any,
    ):
        self._hub = hub
        if held_out_loader is not None:
            keywords["eval_dataset"] = held_out_loader.dataset()
        super().__init__(**keywords)
        self.ledger = ledger
        self.identity = identity or RunIdentity("")
        self._finish_save = finish_save
        self._held_out_loader = held_out_loader
        self._unusable_held_out: set[int] = set()
        self._measured = {"train": TokenMeans(), "eval": TokenMeans()}  # since the last log; this evaluation
        self._trained = TokenMeans()  # since this process started or resumed the run
        self._shown_s = 0.0  # of video, on this process, since `_shown_from_step`
        self._shown_from_step: int | None = None
        self._best_step: int | None = None

    @property
    def weights_step(self) -> int:
        """Step of the current weights: the newest, or the best one's after `load_best_model_at_end`."""
        return self.state.global_step if self._best_step is None else self._best_step

    @property
    def global_batch(self) -> int:
        """Rows in an optimizer step, over all processes."""
        return rows_per_step(self.args)

    @property
    def hours_shown(self) -> float:
        """Hours of video shown up to `weights_step`, extrapolated from the steps of this process since it started.

        A still image counts as one second.
        """
        if self._shown_from_step is None or self.state.global_step <= self._shown_from_step:
            return 0.0
        per_step_s = self._shown_s / (self.state.global_step - self._shown_from_step)
        return per_step_s * self.args.world_size * self.weights_step / 3600

    def forget_earlier_run(self) -> None:
        """Clear the skip list of an earlier run in the same folder, and set its card aside."""
        if self.is_world_process_zero():
            if self.ledger is not None:
                self.ledger.forget_after(0)
            if (before := set_aside_card(self.args.output_dir)) is not None:
                logger.warning("%s held the card of an earlier run, which is now %s", self.args.output_dir, before.name)

    def restore(self, state: RunState) -> None:
        """Restore the counts from a checkpoint; `train` loads weights, optimizer and random state."""
        self._total_train_tokens = state.n_tokens
        if self.ledger is not None:
            self.ledger.restore(state.skipped)
            if self.is_world_process_zero():
                self.ledger.forget_after(state.step)

    def get_train_dataloader(self) -> DataLoader:
        """Return the base class's data loader, without draws from the training's random numbers."""
        return _with_own_seeds(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Return the base class's data loader, using the held-out data's collator, and without such draws."""
        if self._held_out_loader is None:
            return _with_own_seeds(super().get_eval_dataloader(eval_dataset))
        training_loader, self.data_collator = self.data_collator, self._held_out_loader
        try:
            return _with_own_seeds(super().get_eval_dataloader(eval_dataset))
        finally:
            self.data_collator = training_loader

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """Return the batches of a step, and add their skipped samples to the ledger over all processes.

        Raises:
            TooManySkippedError: on all processes, if the share of skipped samples exceeds `max_skipped`.
        """
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        notes = [batch.pop(BOOKKEEPING) for batch in batches if BOOKKEEPING in batch]
        if self._shown_from_step is None:
            self._shown_from_step = self.state.global_step
        self._shown_s += sum(note["n_shown"] for note in notes)  # a temporal step is one second of video
        if self.ledger is not None and notes:
            skipped = [item for note in notes for item in note["skipped"]]
            self.ledger.write(skipped, self.state.global_step + 1)
            counts = torch.tensor([sum(note["n_samples"] for note in notes), len(skipped)], device=device)
            self.ledger.count(*self.accelerator.reduce(counts, "sum").tolist())
        return batches, num_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """Return the base class's loss, with the head applied only at supervised positions on every device."""
        inputs = normalise_pixels(inputs, self.processing_class.video_processor)
        note = inputs.pop(BOOKKEEPING, {})
        labels = inputs.pop("labels")
        # Position i predicts token i + 1.
        targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        kept = targets != IGNORE_INDEX
        n_targets = int(kept.sum())
        if not n_targets:
            kept[0, 0] = True  # keep one masked position so that the row still takes part in the backward pass
        inputs |= {"shift_labels": targets[kept][None], "kept_positions": kept, **sample_lengths(self.model, inputs)}
        recorded: list[Any] = []

        def recording(**keywords: Any) -> Any:
            recorded.append(model(**keywords))
            return recorded[-1]

        with reduce_head_gradient(model), packed_batch(inputs):
            result = super().compute_loss(recording, inputs, return_outputs, num_items_in_batch)
        loss = (result[0] if return_outputs else result).detach()
        self._measure(loss, recorded[0], n_targets, num_items_in_batch, note)
        if self.model.training and "attention_mask" not in inputs:
            self._count_packed_tokens(inputs)
        return result

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        **keywords: Any,
    ) -> EvalLoopOutput:
        """Evaluate as the base class does, and add means per supervised token and per spoken word.

        Raises:
            ValueError: if no held-out sample can be used.
        """
        self._measured["eval"].clear()
        output: EvalLoopOutput = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, **keywords
        )
        prefix = keywords.get("metric_key_prefix", "eval")
        means = self._measured["eval"].means(self.accelerator)
        if not means:
            raise ValueError("none of the held-out samples can be used, see the warnings: fix their data")
        output.metrics.update({f"{prefix}_{name}": value for name, value in means.items()})
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the base class does, but with means per supervised token instead of means over batches."""
        mode = "train" if self.model.training else "eval"
        for name in ("entropy", "mean_token_accuracy"):
            self._metrics[mode].pop(name, None)  # TRL's means over batches
        if mode == "train" and "loss" in logs:
            del logs["loss"]  # stays absent if no token was supervised
            logs.update(self._measured["train"].means(self.accelerator))
            self._trained.add_all(self._measured["train"])
            self._measured["train"].clear()
        elif "train_loss" in logs:
            del logs["train_loss"]
            self._trained.add_all(self._measured["train"])
            if means := self._trained.means(self.accelerator):
                logs["train_loss"] = means["loss"]
        super().log(logs, start_time)

    def _run_epoch(self, *args: Any, **keywords: Any) -> None:
        """Run an epoch unless all steps are done; the base class checks only after taking a step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **keywords)

    def create_model_card(self, *args: Any, **keywords: Any) -> None:
        """Do nothing if `finish_save` writes the card; otherwise call the base class."""
        if self._finish_save is None:
            super().create_model_card(*args, **keywords)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as the base class does, then add the other files (card, code, an adapter's config and processor)."""
        with preserve_card(output_dir or self.args.output_dir) if self.args.should_save else contextlib.nullcontext():
            # An internal call is not pushed: the folder is still incomplete.
            super().save_model(output_dir, _internal_call=True)
        if self.args.should_save and self._finish_save is not None:
            self._finish_save(output_dir or self.args.output_dir)
        if self.args.push_to_hub and not _internal_call:
            self._push_saved("Model save")

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, private unless `hub_private_repo` is false."""
        if self._hub is None:
            super().init_hf_repo(token, private)
        elif self.is_world_process_zero():
            self.hub_model_id = self._hub.prepare()
            self.push_in_progress = None

    def push_to_hub(self, commit_message: str | None = "End of training", *args: Any, **keywords: Any) -> Any:
        """Save and push like the base class, but check the folder, keep our card, and verify the upload."""
        if self._hub is None:
            return super().push_to_hub(commit_message, *args, **keywords)
        self.save_model(_internal_call=True)
        return self._push_saved(commit_message or "End of training")

    def _push_saved(self, message: str) -> Any:
        """Push the output folder, from the main process."""
        if not self.is_world_process_zero():
            return None
        if self._hub is None:
            return super().push_to_hub(message)
        self._finish_current_push()
        return self._hub.push_result(self.args.output_dir, message)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Do nothing if `_push_checkpoint` will push the complete checkpoint; otherwise call the base class."""
        if self._hub is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _push_checkpoint(self, checkpoint: str) -> None:
        """Start pushing a checkpoint; skip it if a push is running and `hub_always_push` is off."""
        if self._hub is None or not self.is_world_process_zero():
            return
        before = self.push_in_progress
        running = before.jobs if before is not None and not before.is_done() else []
        if not running or self.args.hub_always_push:
            jobs = self._hub.push_checkpoint(checkpoint, self.state.global_step)
            self.push_in_progress = PushInProgress([*running, *jobs])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load as the base class does, but report damaged files clearly."""
        with explain_damage(resume_from_checkpoint, "*.safetensors", "*.bin"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        """Load as the base class does, and note the step."""
        super()._load_best_model()
        self._best_step = self.state.best_global_step

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load as the base class does, but report damaged files clearly."""
        with explain_damage(checkpoint or "", "optimizer*", "scheduler.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Load as the base class does, but report damaged files clearly."""
        with explain_damage(checkpoint or "", "rng_state*.pth"):
            super()._load_rng_state(checkpoint)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save a checkpoint, and delete older ones only after every process has written its part."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            run_dir = self._get_output_dir(trial=trial)
            step = self.state.global_step
            counts = self.ledger.state() if self.ledger is not None else {}
            resumable = not self.args.save_only_model
            tokens = self._total_train_tokens
            state = RunState.of(self.identity, step, self.global_batch, tokens, resumable, counts)
            checkpoint = f"{run_dir}/{PREFIX_CHECKPOINT_DIR}-{step}"
            write_run_state(checkpoint, state)
            self._push_checkpoint(checkpoint)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(run_dir, limit, best_model_checkpoint=best, use_mtime=False)

    def _measure(
        self,
        loss: torch.Tensor,
        outputs: Any,
        n_targets: int,
        num_items: torch.Tensor | int | None,
        note: dict[str, Any],
    ) -> None:
        """Add a batch to the means; `loss` is the base class's, normalized by `num_items` tokens."""
        if self.model.training:
            if num_items is None:
                loss = loss * max(n_targets, 1)
            else:
                loss = loss * num_items
                if self.args.average_tokens_across_devices:
                    loss = loss / (self.accelerator.num_processes // self.get_tp_size())
            self._measured["train"].add(loss, outputs, n_targets, 0, self.args.logging_nan_inf_filter)
            return
        # NaN batches are kept: skipping one would silently shrink the held-out set.
        self._measured["eval"].add(loss * max(n_targets, 1), outputs, n_targets, note.get("n_words", 0), False)
        self._warn_of_held_out(note.get("skipped", ()))

    def _warn_of_held_out(self, skipped: Sequence[SkippedSample]) -> None:
        """Warn once for each held-out sample that cannot be used."""
        for item in skipped:
            if item.index not in self._unusable_held_out:
                self._unusable_held_out.add(item.index)
                logger.warning("held-out %s cannot be used (%s): %s", item.origin, item.reason, item.message)

    def _count_packed_tokens(self, inputs: dict[str, Any]) -> None:
        """Correct the base class's token count, which without a mask assumes `position_ids` of shape (rows, length)."""
        counted = torch.tensor(inputs["position_ids"].size(1), device=self.args.device)
        real = (inputs["input_ids"] != self._tokenizer.pad_token_id).sum()
        self._total_train_tokens += int(self.accelerator.reduce(real - counted, "sum").item())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]


def _with_own_seeds(loader: DataLoader) -> DataLoader:
    """Let a loader draw its workers' seeds from a generator of its own.

    A resumed run starts other loaders at other times (no evaluation between the checkpoint and the next step, new
    persistent workers), so draws from the global generator would change its dropout.
    """
    getattr(loader, "base_dataloader", loader).generator = torch.Generator()  # accelerate wraps loaders
    return loader

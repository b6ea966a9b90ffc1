"""The stage `text_loss`: scores how surprising a clip's words are, given the title and the words before them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from ...captions.segmentation import word_pieces
from ...modeling.grammar import tokenize
from ...utils.counts import check_counts
from ...utils.text import one_line
from ..columns import scores_array, spoken_texts, texts, with_column
from ..watchdog import items_done
from .base import StageResult, split
from .model import ModelStage, choose_device, choose_dtype, device_option, dtype_option, load_pretrained

if TYPE_CHECKING:
    import torch
    from torch import nn

_DEFAULT_MODEL = "Qwen/Qwen2-1.5B-Instruct"
_CPU_TOKENS_PER_BATCH = 4096  # larger batches are no faster on a CPU, which has no kernels to launch
# Logits computed at a time: few enough for a CPU's cache, enough to keep an accelerator busy.
_LOGITS_PER_BLOCK = {"cpu": 1 << 23, "other": 1 << 27}


class EncodedClip(NamedTuple):
    """A clip as tokens.

    Attributes:
        ids: int64 of shape (tokens,): the prompt, then the words.
        n_prompt: number of tokens of the prompt.
    """

    ids: np.ndarray
    n_prompt: int


class _Model(NamedTuple):
    tokenizer: Any
    model: Any
    max_tokens: int
    is_plain_head: bool  # whether the logits are the output layer on the hidden states, nothing more


@dataclass(frozen=True)
class TextLoss(ModelStage):
    """Keeps clips whose words are neither too predictable nor too surprising, and fills `text_loss`.

    A causal language model is given a chat prompt with the title, the previous words if any, and a request for the
    likely transcription; the clip's words are the answer. The loss is the mean over the answer's tokens, without the
    tokens that end it. Words that a title does not predict are worth learning from video; words that nothing predicts
    are noise, or garbled.

    Prompt and words are limited to the model's context, or to `max_tokens`, by leaving out the earliest previous words.
    A clip that is too long even without previous words is dropped as `error`.

    For speed, the clips of a batch are sorted by length and run in groups of `tokens_per_batch` tokens, padded on the
    right, where causal attention needs no mask. The output layer runs only at positions that predict the answer.

    Dropped: `loss_too_low`, `loss_too_high` (value: the loss), `error`.

    The thresholds are those of the LiveCC paper (arXiv 2504.16030, section 3) for Qwen2-1.5B-Instruct: 1.5 to 6.5 for
    pre-training data; 1.5 to 5 for SFT data, without previous words. For another model, set them by the distribution in
    the report.
    """

    name: ClassVar[str] = "text_loss"
    takes: ClassVar[str] = "clips"
    needs_gpu: ClassVar[bool] = True
    batch_rows: ClassVar[int] = 1024

    model: str = field(
        default=_DEFAULT_MODEL,
        metadata={"help": "Causal language model with a chat template: a Hub id or a local folder."},
    )
    min_loss: float = field(default=1.5, metadata={"help": "Lowest mean loss, in nats per token. (paper: 1.5)"})
    max_loss: float = field(
        default=6.5, metadata={"help": "Highest mean loss, in nats per token. (paper: 6.5; SFT: 5)"}
    )
    use_previous: bool = field(
        default=True,
        metadata={
            "help": "Show the model what was said before the clip. (reference: true for pre-training, false for SFT)"
        },
    )
    tokens_per_batch: int = field(
        default=16_384,
        metadata={
            "help": "Tokens in a forward pass, with padding (on a CPU at most 4,096); lower it if memory runs out."
        },
    )
    max_tokens: int | None = field(
        default=None, metadata={"help": "Maximum tokens of prompt and words; default: the model's context."}
    )
    device: str | None = device_option()
    dtype: str | None = dtype_option()

    def __post_init__(self):
        if not self.min_loss < self.max_loss:
            raise ValueError(
                f"min_loss {self.min_loss} is not below max_loss {self.max_loss}: expected values such as 1.5 and 6.5"
            )
        check_counts(self, "tokens_per_batch", "max_tokens")

    def load(self) -> _Model:
        """Return the model and its tokenizer.

        Raises:
            ValueError: if they cannot be loaded, or the tokenizer has no chat template.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = choose_device(self.device)
        tokenizer = load_pretrained(AutoTokenizer.from_pretrained, self.model)
        if not tokenizer.chat_template:
            raise ValueError(
                f"{self.model} has no chat template: expected an instruction model, such as {_DEFAULT_MODEL}"
            )
        model = load_pretrained(
            AutoModelForCausalLM.from_pretrained, self.model, dtype=choose_dtype(self.dtype, device), device_map=device
        ).eval()
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        limits = [limit for limit in (context, self.max_tokens) if limit]
        return _Model(tokenizer, model, min(limits) if limits else 1 << 30, _is_plain_head(model))

    def __call__(self, batch: pa.Table) -> StageResult:
        """Score the clips of a batch in `CLIP_SCHEMA`.

        Raises:
            RuntimeError: if the device fails, as when memory runs out for a single clip.
        """
        previous = texts(batch, "previous") if self.use_previous else [""] * len(batch)
        losses, details = self.losses(spoken_texts(batch), texts(batch, "title"), previous)
        reasons = np.full(len(batch), None, dtype=object)
        reasons[losses < self.min_loss] = "loss_too_low"
        reasons[losses > self.max_loss] = "loss_too_high"
        reasons[np.isnan(losses)] = "error"
        return split(self.name, with_column(batch, "text_loss", scores_array(losses)), reasons, losses, details)

    def losses(self, spoken: list[str], titles: list[str], previous: list[str]) -> tuple[np.ndarray, list[str | None]]:
        """Return the mean loss of each clip's words, and for clips without a loss the reason.

        Args:
            spoken: the speech of each clip.
            titles: the title of each clip's video, or "".
            previous: the speech before each clip, or "".

        Returns:
            The losses, float64 of shape (clips,) in nats per token, NaN for clips without one; and for each of these
            clips a text that says why, else `None`.

        Raises:
            RuntimeError: if memory runs out for a single clip.
        """
        losses = np.full(len(spoken), np.nan)
        details: list[str | None] = [None] * len(spoken)
        if not spoken:
            return losses, details
        loaded = self.loaded
        encoded = encode_clips(loaded.tokenizer, spoken, titles, previous, loaded.max_tokens)
        usable = {}
        for i, clip in enumerate(encoded):
            if clip is None:
                details[i] = "the clip has no words"
            elif len(clip.ids) > loaded.max_tokens:
                details[i] = (
                    f"{len(clip.ids)} tokens without previous words: more than the limit of {loaded.max_tokens}"
                )
            else:
                usable[i] = clip
        limit = self.tokens_per_batch
        if loaded.model.device.type == "cpu":
            limit = min(limit, _CPU_TOKENS_PER_BATCH)
        for group in _groups({i: len(clip.ids) for i, clip in usable.items()}, limit):
            losses[group] = self._run([usable[i] for i in group])
            items_done(len(group))
        for i in np.flatnonzero(np.isnan(losses)).tolist():
            details[i] = details[i] or "the loss is NaN: try dtype bfloat16 or float32"
        return losses, details

    def _run(self, clips: list[EncodedClip]) -> np.ndarray:
        import torch

        try:
            return mean_losses(self.loaded.model, clips, self.loaded.is_plain_head)
        except torch.OutOfMemoryError as error:
            if len(clips) == 1:
                raise RuntimeError(
                    f"out of memory on a clip of {len(clips[0].ids)} tokens: lower max_tokens (now "
                    f"{self.loaded.max_tokens}), or use a smaller model; {one_line(error)}"
                ) from error
        torch.cuda.empty_cache()
        half = len(clips) // 2
        return np.concatenate([self._run(clips[:half]), self._run(clips[half:])])


def prompt_of(title: str, previous: str) -> str:
    """Return the prompt for the language model, in the reference's form: title, previous transcription, request."""
    request = "Please write the likely speech transcription of this video"
    lines = [f"Video title: {title}"] if title else []
    if previous:
        lines += [f"Previous transcription: {previous}", f"{request}, following the previous transcription."]
    else:
        lines += [f"{request}, from start to end."]
    return "\n".join(lines)


def encode_clips(
    tokenizer: Any, spoken: list[str], titles: list[str], previous: list[str], max_tokens: int
) -> list[EncodedClip | None]:
    """Encode clips as tokens; clips over `max_tokens` lose their earliest previous words.

    Args:
        tokenizer: with a chat template.
        spoken, titles, previous: of each clip, as for `TextLoss.losses`.
        max_tokens: maximum tokens of a clip. A clip is longer only if it is too long without any previous words.

    Returns:
        For each clip its tokens, or `None` if it has no words.
    """
    encoded: list[EncodedClip | None] = [None] * len(spoken)
    previous_words = {i: word_pieces(previous[i]) for i, text in enumerate(spoken) if text.strip()}
    answers = tokenize(tokenizer, [spoken[i].strip() for i in previous_words])
    answer_of = dict(zip(previous_words, answers, strict=True))
    pending = list(previous_words)
    while pending:
        prompts = [prompt_of(titles[i], "".join(previous_words[i]).lstrip()) for i in pending]
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        rendered = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        too_long = []
        for i, prompt_ids in zip(pending, tokenize(tokenizer, rendered), strict=True):
            clip = EncodedClip(np.array(prompt_ids + answer_of[i], dtype=np.int64), len(prompt_ids))
            encoded[i] = clip
            excess = len(clip.ids) - max_tokens
            if excess > 0 and previous_words[i]:
                # The excess tokens as a share of the prompt, applied to the words; at least one word.
                share = excess / len(prompt_ids)
                previous_words[i] = previous_words[i][max(int(share * len(previous_words[i])), 1) :]
                too_long.append(i)
        pending = too_long
    return encoded


def mean_losses(model: Any, clips: list[EncodedClip], is_plain_head: bool = False) -> np.ndarray:
    """Return the mean loss of the words of each clip, from one forward pass.

    Args:
        model: a causal language model.
        clips: run as one batch.
        is_plain_head: whether the logits are the output layer on the decoder's output, nothing more; the layer then
            runs only at positions that predict a word.

    Returns:
        float64 of shape (clips,), in nats per token.
    """
    import torch

    lengths, starts = (np.array(x) for x in zip(*((len(clip.ids), clip.n_prompt) for clip in clips), strict=True))
    ids = np.zeros((len(clips), lengths.max()), dtype=np.int64)
    for row, clip in enumerate(clips):
        ids[row, : len(clip.ids)] = clip.ids
    # No attention mask is needed: with padding on the right, causal attention never reaches it from a real token.
    input_ids = torch.from_numpy(ids).to(model.device)
    counts = lengths - starts
    row_of = np.repeat(np.arange(len(clips)), counts)
    column_of = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - starts, counts)
    rows, columns = torch.from_numpy(np.stack([row_of, column_of])).to(model.device)
    first = int(starts.min()) - 1
    targets, predicted_from = input_ids[rows, columns], columns - 1
    with torch.inference_mode():
        if is_plain_head:
            hidden = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state[rows, predicted_from]
            project = model.get_output_embeddings()
        else:
            kept = torch.arange(first, ids.shape[1], device=model.device)
            logits = model(input_ids=input_ids, use_cache=False, logits_to_keep=kept).logits
            hidden, project = logits[rows, predicted_from - first], torch.nn.Identity()
        losses = _token_losses(hidden, project, targets, model.config.get_text_config().vocab_size)
    sums = torch.zeros(len(clips), dtype=torch.float64, device=losses.device).index_add_(0, rows, losses.double())
    return sums.cpu().numpy() / counts


def _token_losses(hidden: torch.Tensor, project: nn.Module, targets: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Return the loss of each token, of shape (tokens,); computed in blocks to limit memory."""
    import torch

    kind = "cpu" if hidden.device.type == "cpu" else "other"
    rows_per_block = max(_LOGITS_PER_BLOCK[kind] // vocab_size, 1)
    blocks = zip(hidden.split(rows_per_block), targets.split(rows_per_block), strict=True)
    return torch.cat(
        [torch.nn.functional.cross_entropy(project(part).float(), wanted, reduction="none") for part, wanted in blocks]
    )


def _is_plain_head(model: Any) -> bool:
    """Return whether the output layer on the decoder's output gives the logits; some models scale or cap them."""
    import torch

    head, ids = model.get_output_embeddings(), torch.arange(4, device=model.device)[None]
    if head is None or model.base_model is model:
        return False
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits
        hidden = getattr(model.base_model(input_ids=ids, use_cache=False), "last_hidden_state", None)
        if hidden is None or hidden.shape[-1] != head.weight.shape[-1]:
            return False
        logits = head(hidden)
    return logits.shape == expected.shape and torch.allclose(logits.float(), expected.float(), rtol=1e-3, atol=1e-3)


def _groups(lengths: dict[int, int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Yield groups of clips of similar length, the longest first, so that a lack of memory shows early."""
    group: list[int] = []
    longest = 0
    for i in sorted(lengths, key=lengths.__getitem__, reverse=True):
        if group and (len(group) + 1) * longest > tokens_per_batch:
            yield group
            group = []
        longest = longest if group else lengths[i]
        group.append(i)
    if group:
        yield group

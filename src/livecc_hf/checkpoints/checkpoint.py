"""A checkpoint: finds its files once, and loads its model and processor."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..acceleration import accelerate
from ..modeling import LiveCCConfig, LiveCCForConditionalGeneration, StreamingProcessor
from ..modeling.backbones import backbone_of_values
from ..modeling.grammar import find_grammar
from ..utils.device_errors import is_out_of_memory
from ..utils.text import one_line
from ..video.ahead import read_file
from ..video.loading import load_video
from .adapters import AdapterInfo, attach_adapter, base_of, merge_into, read_adapter, require_peft
from .config import is_published, make_config, only_scheme, published_grammar, published_scheme, read_config_dict
from .errors import ModelLoadError, check_report
from .load_report import hide_load_report
from .names import expand_home
from .placement import (
    check_four_bit,
    checked_device,
    default_device,
    four_bit_config,
    untried_accelerator,
    weights_dtype,
)

if TYPE_CHECKING:
    import torch

_CHOOSE = "(choose another with position_scheme / --position-scheme)"


@dataclass(frozen=True)
class Checkpoint:
    """A whole model, or an adapter with its base, whose config has been read.

    Attributes:
        source: the folder or Hub id.
        adapter: the facts in the adapter's files; `None` for a whole model.
        base: folder or Hub id of the whole model: the source itself, or the adapter's base.
        revision: revision of the whole model on the Hub; `None` for the newest.
        config: the whole model's config, with the position scheme to use.
        own_scheme: the position scheme in the files, suggested by their name, or guessed; a caller's choice does not
            change it.
        is_scheme_guessed: whether `own_scheme` is a guess, as for a Qwen2-VL checkpoint without LiveCC in its name.
        notes: remarks for the user, one line each; empty for a whole model of this package.
        grammar: chat format of a commentary to set on the whole model's processor; `None` keeps the processor's own.
    """

    source: str
    adapter: AdapterInfo | None
    base: str
    revision: str | None
    config: LiveCCConfig
    own_scheme: str
    is_scheme_guessed: bool = False
    notes: tuple[str, ...] = ()
    grammar: str | None = None

    def load_processor(self) -> StreamingProcessor:
        """Load the processor, or the adapter's own if it has one.

        Raises:
            ModelLoadError: if its files are missing or damaged.
        """
        source, revision = self.base, self.revision
        if self.adapter is not None and self.adapter.has_processor:
            source, revision = self.adapter.source, None
        try:
            processor = StreamingProcessor.from_pretrained(expand_home(source), **_revision(revision))
        except Exception as error:  # damaged files raise errors of many types
            raise ModelLoadError(
                f"{source}: the tokenizer or processor files cannot be loaded: {one_line(error)}; copy them from the "
                "base model"
            ) from error
        if self.grammar is not None and source == self.base:
            processor.grammar = self.grammar
        processor.video_processor.load_file = load_video
        return processor

    def load_model(
        self,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        load_in_4bit: bool = False,
        merge: bool = False,
        processor: StreamingProcessor | None = None,
    ) -> LiveCCForConditionalGeneration:
        """Load the model in evaluation mode, with its adapter if there is one.

        Args:
            device: such as `cuda:0` or `cpu`; default: CUDA if available, else the CPU.
            dtype: such as `bfloat16`; default: float32 on a CPU, the stored dtype elsewhere.
            load_in_4bit: quantise the language model with bitsandbytes while loading.
            merge: merge the adapter into the weights, which makes it as fast as a whole model.
            processor: the model's processor; provides the end-of-message token if the config lacks it, and is saved
                together with an adapter.

        Raises:
            ModelLoadError: if the weights cannot be loaded or do not fit, or the device or an option cannot be used.
        """
        self.check_merge(merge, load_in_4bit)
        if self.adapter is not None:
            require_peft()  # fail before loading the base, which can take minutes
        config = copy.deepcopy(self.config)
        if processor is not None and config.message_end_token_id is None:
            config.message_end_token_id = processor.end_id
        model = self.load_base(config, device, dtype, load_in_4bit)
        if self.adapter is not None and merge:
            model = merge_into(model, self.adapter.source)
        elif self.adapter is not None:
            attach_adapter(model, self.adapter)
            model._adapter_processor = processor  # saved with the adapter, since it can differ from the base's
        model.read_file = read_file
        return accelerate(model.eval())

    def check_merge(self, merge: bool, load_in_4bit: bool = False) -> None:
        """Check that the adapter can be merged, if `merge` is set.

        Raises:
            ModelLoadError: if the checkpoint is not an adapter, or its base is or will be quantised.
        """
        if not merge:
            return
        if self.adapter is None:
            raise ModelLoadError(f"{self.source} is a whole model, with nothing to merge: leave out merge / --merge")
        if load_in_4bit:
            raise ModelLoadError(
                f"{self.source} cannot be merged into 4-bit weights without rounding them again: leave out merge / "
                f"--merge, or write the merged model (livecc merge {self.source} OUT) and load that in 4-bit"
            )
        self.check_unquantized()

    def check_unquantized(self) -> None:
        """Raise `ModelLoadError` if the base's weights are stored quantised, which cannot be merged into."""
        if getattr(self.config, "quantization_config", None) is not None:
            raise ModelLoadError(
                f"{self.base} holds quantised weights, which an adapter cannot be merged into exactly: give the "
                "unquantised model with base / --base"
            )

    def load_base(
        self,
        config: LiveCCConfig | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        load_in_4bit: bool = False,
    ) -> LiveCCForConditionalGeneration:
        """Load the whole model without an adapter.

        Args:
            config: replaces the checkpoint's config.
            device: see `load_model`.
            dtype: see `load_model`.
            load_in_4bit: see `load_model`.

        Raises:
            ModelLoadError: if the weights cannot be loaded or do not fit, or the device or an option cannot be used.
        """
        target = checked_device(device if device is not None else default_device())
        options: dict[str, Any] = {"dtype": weights_dtype(dtype, target), "device_map": {"": target}}
        if load_in_4bit:
            full = self.adapter.full_modules if self.adapter is not None else ()
            options |= {"quantization_config": four_bit_config(target, full)}
        try:
            with hide_load_report():
                model, report = LiveCCForConditionalGeneration.from_pretrained(
                    expand_home(self.base),
                    config=config or self.config,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # `check_report` refuses them with a one-line error
                    **options,
                    **_revision(self.revision),
                )
        except Exception as error:  # damaged files raise errors of many types
            if is_out_of_memory(error):
                raise ModelLoadError(
                    f"{self.base}: the weights do not fit into the memory of {target}: {one_line(error)}; load a "
                    "smaller model, or with dtype bfloat16 or in 4 bits"
                ) from error
            raise ModelLoadError(
                f"{self.base}: the weights cannot be loaded (missing or damaged?): {one_line(error)}"
            ) from error
        check_report(self.base, report)
        if load_in_4bit:
            check_four_bit(self.base, model, target)
        return model


def open_checkpoint(
    source: str | os.PathLike,
    position_scheme: str | None = None,
    base: str | os.PathLike | None = None,
    revision: str | None = None,
    only_whole: bool = False,
    grammar: str | None = None,
) -> Checkpoint:
    """Find a model or an adapter and read its config; for an adapter, that is its base's with the adapter's scheme.

    Args:
        source: folder or Hub id of a model of this package, of a published checkpoint of LiveCC or one of its
            backbones, or of an adapter on one of these.
        position_scheme: overrides the scheme that the files name or suggest.
        base: for an adapter, folder or Hub id of its base model; default: the base that the adapter names.
        revision: revision of the whole model on the Hub; default: the one that the adapter names, or the newest.
        only_whole: refuse an adapter.
        grammar: overrides the grammar that the whole model's files name or suggest.

    Raises:
        ModelLoadError: if the source does not exist, holds a model of another type, or is an adapter whose base is
            missing or does not fit; or if the position scheme is unknown or not supported by the backbone.
        ValueError: if the grammar is unknown.
    """
    if grammar is not None:
        find_grammar(grammar)
    source = str(source)
    adapter = read_adapter(source)
    if adapter is not None and only_whole:
        raise ModelLoadError(
            f"{source} is an adapter, not a whole model: merge it first (livecc merge {source} OUT) and give OUT"
        )
    whole = source
    if adapter is not None:
        whole, known_revision = base_of(adapter, base)
        revision = revision or known_revision
    values = _read_values(adapter, whole, revision)
    if adapter is None and base is not None:
        raise ModelLoadError(f"{source} is a whole model and not an adapter: leave out base / --base {base}")
    if adapter is not None and adapter.backbone not in (None, found := backbone_of_values(values)):
        raise ModelLoadError(
            f"{adapter.source} was trained on a {adapter.backbone}, but {whole} is a {found}: give the model that the "
            "adapter was trained on with base / --base"
        )
    own_scheme, is_guessed, notes = _own_scheme(values, adapter, whole, position_scheme)
    config = make_config(whole, values | {"position_scheme": own_scheme})
    if position_scheme is not None:
        config.position_scheme = position_scheme
        try:
            config.check_scheme()
        except ValueError as error:
            raise ModelLoadError(f"{whole}: {error}") from None
    if grammar is None and is_published(values) and (grammar := published_grammar(whole, values)) is not None:
        notes.append(f"{whole} is a published checkpoint: assuming grammar '{grammar}'")
    return Checkpoint(source, adapter, whole, revision, config, own_scheme, is_guessed, tuple(notes), grammar)


def device_notes(device: str | torch.device | None) -> list[str]:
    """Return a note if the CPU is used by default although there is an untested accelerator."""
    found = untried_accelerator() if device is None and default_device() == "cpu" else None
    if found is None:
        return []
    return [f"device: CPU; {found} is untested with livecc-hf: use it with --device {found} --dtype bfloat16"]


def _own_scheme(
    values: dict[str, Any], adapter: AdapterInfo | None, whole: str, chosen: str | None
) -> tuple[str, bool, list[str]]:
    """Return the position scheme that files name or suggest, whether it is a guess, and notes on assumptions.

    Args:
        values: config of the whole model.
        adapter: the adapter on it, if there is one.
        whole: folder or Hub id of the whole model.
        chosen: the scheme that the caller chooses; there are then no notes on assumptions.
    """
    notes = [] if adapter is None else [f"{adapter.source}: adapter on base {whole}"]
    if adapter is not None and adapter.position_scheme is not None:
        return adapter.position_scheme, False, notes
    if adapter is not None and chosen is None:
        notes.append(
            f"{adapter.source} does not say in which position scheme it was trained: assuming its base's {_CHOOSE}"
        )
    if not is_published(values):
        return values.get("position_scheme", LiveCCConfig.position_scheme), False, notes
    if (only := only_scheme(values)) is not None:
        return only, False, notes
    suggested = published_scheme(whole, values)
    scheme = suggested or LiveCCConfig.position_scheme
    if chosen is None:
        kind = "LiveCC" if suggested else "Qwen2-VL"
        notes.append(f"{whole} is a published {kind} checkpoint: assuming position scheme '{scheme}' {_CHOOSE}")
    return scheme, suggested is None, notes


def _read_values(adapter: AdapterInfo | None, whole: str, revision: str | None) -> dict[str, Any]:
    try:
        return read_config_dict(whole, revision)
    except ModelLoadError as error:
        if adapter is None:
            raise
        raise ModelLoadError(
            f"{adapter.source} is an adapter on {whole}, which cannot be read: {error}. Give the base model's folder "
            "or Hub id with base / --base"
        ) from error


def _revision(revision: str | None) -> dict[str, str]:
    return {} if revision is None else {"revision": revision}

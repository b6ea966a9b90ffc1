"""Adapters: reads, attaches, merges and switches them, and writes the files that loading one needs."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..modeling import LiveCCConfig, LiveCCForConditionalGeneration, StreamingProcessor
from ..utils.atomic import write_text
from ..utils.extras import MissingExtraError, require_extra
from ..utils.text import one_line
from .cards import CARD_FILE, CardFacts, short_name, update_training, write_card
from .errors import ModelLoadError, check_report
from .files import find_file, read_json
from .load_report import hide_load_report
from .names import ADAPTER_CONFIG_FILE, CONFIG_FILE, expand_home

if TYPE_CHECKING:
    from peft import PeftConfig

_PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json")
_PEFT_TEMPLATE_MARK = "[More Information Needed]"
_FULL_MODULES_SINCE = (5, 23)  # the oldest transformers with which this was tested
_WRONG_BASE = "it was made for another base model; give that one with base / --base"


@dataclass(frozen=True)
class AdapterInfo:
    """The facts in an adapter's files.

    Attributes:
        source: folder or Hub id of the adapter.
        base: folder or Hub id of the model it was trained on; `None` if it does not name it.
        base_revision: revision of the base on the Hub; `None` for the newest.
        position_scheme: position scheme it was trained with; `None` if it was saved without one.
        has_processor: whether the adapter has processor files.
        backbone: backbone of the model it was trained on; `None` if it was saved without one.
        full_modules: names of the modules that it holds in full (`lora_modules_to_save`).
    """

    source: str
    base: str | None
    base_revision: str | None
    position_scheme: str | None
    has_processor: bool
    backbone: str | None = None
    full_modules: tuple[str, ...] = ()


def find_adapter(source: str) -> str | None:
    """Return the path of an adapter's config; `None` if `source` holds no adapter, or also a whole model.

    Raises:
        ModelLoadError: if the Hub cannot be reached.
    """
    path = find_file(source, ADAPTER_CONFIG_FILE)
    # transformers itself loads a whole model together with an adapter in its folder.
    is_whole = Path(source).is_dir() and any(Path(source).glob("model*.safetensors"))
    return None if is_whole else path


def read_adapter(source: str | os.PathLike) -> AdapterInfo | None:
    """Read the facts in an adapter's folder or Hub repository.

    Returns:
        The facts; `None` if `source` holds no adapter, or also a whole model.

    Raises:
        ModelLoadError: if its `adapter_config.json` or `config.json` cannot be read, or the Hub cannot be reached.
    """
    source = expand_home(str(source))
    path = find_adapter(source)
    if path is None:
        return None
    values = read_json(source, path)
    config_path = find_file(source, CONFIG_FILE)
    config = read_json(source, config_path) if config_path else {}
    return AdapterInfo(
        source=source,
        base=values.get("base_model_name_or_path") or None,
        base_revision=values.get("revision"),
        position_scheme=config.get("position_scheme"),
        has_processor=any(find_file(source, name) for name in _PROCESSOR_FILES),
        backbone=config.get("backbone"),
        full_modules=tuple(values.get("modules_to_save") or ()),
    )


def base_of(adapter: AdapterInfo, base: str | os.PathLike | None = None) -> tuple[str, str | None]:
    """Return the folder or Hub id of an adapter's base model, and its revision on the Hub.

    Args:
        adapter: the facts in the adapter's files.
        base: folder or Hub id of the base; overrides the adapter's.

    Raises:
        ModelLoadError: if no base is known, it cannot be read, or it is an adapter itself.
    """
    source, revision = (str(base), None) if base is not None else (adapter.base, adapter.base_revision)
    if source is None:
        raise ModelLoadError(
            f"{adapter.source} is an adapter that does not name its base model: give it with base / --base"
        )
    if Path(source).is_absolute() and not Path(source).exists():
        raise ModelLoadError(
            f"{adapter.source} is an adapter on {source}, which does not exist: give the base model's folder or Hub id "
            "with base / --base"
        )
    try:
        on_adapter = find_adapter(source) is not None
    except ModelLoadError as error:
        raise ModelLoadError(
            f"{adapter.source} is an adapter on {source}, which cannot be read: {error}. Give the base model's folder "
            "or Hub id with base / --base"
        ) from error
    if on_adapter:
        raise ModelLoadError(
            f"{adapter.source}: its base {source} is an adapter too: merge that one first (livecc merge {source} OUT), "
            "and give the result with base / --base"
        )
    return source, None if Path(source).is_dir() else revision


def attach_adapter(model: LiveCCForConditionalGeneration, adapter: AdapterInfo) -> None:
    """Attach an adapter to its base model, in place; the model keeps its class, so that it can stream.

    `switch_adapter` switches between the adapter's and the base's outputs, both in the model's position scheme.

    Args:
        model: the base model.
        adapter: the adapter to load.

    Raises:
        ModelLoadError: if peft is missing, or the adapter cannot be loaded or does not fit the base.
    """
    require_peft()
    from peft import PeftConfig, load_peft_weights

    try:
        weights = load_peft_weights(adapter.source, device="cpu")
        # peft drops this suffix when it saves DoRA, and transformers does not restore it.
        weights = {f"{k}.weight" if k.endswith("lora_magnitude_vector") else k: v for k, v in weights.items()}
        peft_config = PeftConfig.from_pretrained(adapter.source)
        _check_full_modules(adapter.source, peft_config)
        with hide_load_report():
            report = model.load_adapter(peft_config=peft_config, adapter_state_dict=weights).to_dict()
    except ModelLoadError:
        raise
    except Exception as error:  # damaged files raise errors of many types
        raise ModelLoadError(
            f"{adapter.source}: the adapter cannot be loaded (missing or damaged?): {one_line(error)}"
        ) from error
    check_report(adapter.source, report, "adapter weights", _WRONG_BASE)


def _check_full_modules(source: str, peft_config: PeftConfig) -> None:
    """Raise `ModelLoadError` if the installed transformers would not find the modules that the adapter holds in full.

    Transformers 5.17 looks for their weights under names that peft does not save.
    """
    import transformers

    version = transformers.__version__
    if peft_config.modules_to_save and tuple(map(int, version.split(".")[:2])) < _FULL_MODULES_SINCE:
        raise ModelLoadError(
            f"{source} holds whole modules ({', '.join(sorted(peft_config.modules_to_save))}), which transformers "
            f'{version} cannot load: pip install -U "transformers>=5.23", or merge the adapter with merge / --merge'
        )


def merge_into(model: LiveCCForConditionalGeneration, source: str) -> LiveCCForConditionalGeneration:
    """Merge an adapter into the weights of its base, in the base's dtype, and return the base without adapter.

    Args:
        model: the base, not quantised, on the device on which to merge.
        source: folder or Hub id of the adapter.

    Raises:
        ModelLoadError: if peft is missing, or the adapter cannot be loaded, does not fit the base or cannot be merged.
    """
    require_peft()
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    try:
        wrapped = PeftModel.from_pretrained(model, source, torch_device=str(model.device))
        expected, saved = set(get_peft_model_state_dict(wrapped)), set(load_peft_weights(source, device="cpu"))
    except Exception as error:  # damaged files raise errors of many types
        raise ModelLoadError(
            f"{source}: the adapter cannot be loaded (damaged, or made for another base?): {one_line(error)}"
        ) from error
    if misfits := expected ^ saved:
        raise ModelLoadError(
            f"{source}: {len(misfits)} adapter weights do not fit the base, such as {min(misfits)}: {_WRONG_BASE}"
        )
    try:
        merged = wrapped.merge_and_unload(safe_merge=True)
    except ValueError as error:  # weights are not finite, or the type of adapter cannot be merged
        raise ModelLoadError(f"{source}: the adapter cannot be merged: {error}") from error
    if hasattr(merged, "peft_config"):
        del merged.peft_config  # the merged model has no adapter, and must not be saved as one
    return merged


def switch_adapter(model: LiveCCForConditionalGeneration, on: bool) -> None:
    """Switch a model's adapter on or off; without it, the model is the base in the adapter's position scheme.

    Unlike `model.enable_adapters()` of transformers, it also switches the modules that the adapter trained in full
    (`lora_modules_to_save`), and unlike `model.disable_adapters()` of transformers 5.24, it does not need an unreleased
    version of peft.

    Args:
        model: a model with an adapter, as `load_model` returns it.
        on: whether to switch the adapter on.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    for module in model.modules():
        if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
            module.enable_adapters(on)


def require_peft() -> None:
    """Raise `ModelLoadError` if peft is not installed."""
    try:
        require_extra("train", "an adapter", "peft")
    except MissingExtraError as error:
        raise ModelLoadError(str(error)) from error


def save_adapter_files(
    folder: str | os.PathLike,
    config: LiveCCConfig,
    processor: StreamingProcessor,
    base: str | os.PathLike,
    base_revision: str | None = None,
    **about: Any,
) -> None:
    """Write the files that loading an adapter needs in addition to those of `PeftModel.save_pretrained`.

    These are `config.json` with the position scheme of the training, the model's code, the processor, and a `README.md`
    with the use of the adapter. If there is an `adapter_config.json`, the base's name (a folder's absolute path, so
    that it is found from any working directory) and revision are written into it.

    Args:
        folder: the folder that `PeftModel.save_pretrained` wrote, or will write.
        config: config of the trained model.
        processor: the processor it was trained with.
        base: folder or Hub id of the base model.
        base_revision: revision of the base on the Hub.
        **about: further fields of `CardFacts` for the card, such as `training`.
    """
    from transformers.dynamic_module_utils import custom_object_save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):  # the quantisation during training; the adapter does not need it
        del config.quantization_config
    config.architectures = [LiveCCForConditionalGeneration.__name__]
    config.save_pretrained(folder)
    processor.save_pretrained(folder)
    custom_object_save(LiveCCForConditionalGeneration, folder)
    base_path = Path(base).expanduser()
    is_folder = base_path.is_dir()
    base = str(base_path.resolve()) if is_folder else str(base)
    path = folder / ADAPTER_CONFIG_FILE
    if path.is_file():
        values = read_json(str(folder), path)
        values |= {"base_model_name_or_path": base, "revision": None if is_folder else base_revision}
        # Written in one step, so that the checkpoint still loads if the process is killed here.
        write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
    card = folder / CARD_FILE
    text = card.read_text(encoding="utf-8", errors="replace") if card.exists() else _PEFT_TEMPLATE_MARK
    if _PEFT_TEMPLATE_MARK in text:  # a user's own card is not replaced
        name = short_name(base)
        facts = CardFacts(
            f"Adapter on {name}, for live commentary",
            f"Trained with livecc-hf on `{name}`.",
            config.position_scheme,
            config.backbone,
            source=base,
            relation="adapter",
            source_revision=None if is_folder else base_revision,
            **about,
        )
        write_card(folder, facts)
    else:
        update_training(folder, about.get("training") or {})

"""Adapters: the trained difference to a base model, and what must stand beside it to run it again."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..modeling import LiveCCConfig, LiveCCForConditionalGeneration, StreamingProcessor
from ..utils.atomic import write_text
from ..utils.extras import MissingExtraError, require_extra
from ..utils.text import one_line
from .cards import CARD_FILE, CardFacts, short_name, update_training, write_card
from .errors import ModelLoadError, check_report
from .files import find_file, read_json
from .names import ADAPTER_CONFIG_FILE, CONFIG_FILE, expand_home

_PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json")
_PEFT_TEMPLATE_MARK = "[More Information Needed]"
_OTHER_BASE = "it was made for another base model; name the right one with base / --base"


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter says about itself.

    Attributes:
        source: the folder or Hub id.
        base: folder or Hub id of the model it was trained on; `None` if it names none.
        base_revision: the base's revision on the Hub; `None`: its newest.
        position_scheme: the scheme it was trained in; `None` if it was saved without one.
        has_processor: whether the processor's files stand beside it.
        backbone: of the model it was trained on; `None` if it was saved without.
    """

    source: str
    base: str | None
    base_revision: str | None
    position_scheme: str | None
    has_processor: bool
    backbone: str | None = None


def find_adapter(source: str) -> str | None:
    """Return the path of an adapter's config; `None` if `source` holds no adapter, or a whole model beside it.

    Raises:
        ModelLoadError: if the Hub cannot be reached.
    """
    path = find_file(source, ADAPTER_CONFIG_FILE)
    # A whole model with an adapter in its folder is loaded, adapter included, by transformers itself.
    is_whole = Path(source).is_dir() and any(Path(source).glob("model*.safetensors"))
    return None if is_whole else path


def read_adapter(source: str | os.PathLike) -> AdapterInfo | None:
    """Read what an adapter folder or Hub repository says.

    Returns:
        `None` if `source` holds no adapter, or holds a whole model beside it.

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
    )


def base_of(adapter: AdapterInfo, base: str | os.PathLike | None = None) -> tuple[str, str | None]:
    """Return folder or Hub id of the base to load, and its revision.

    Args:
        adapter: what the adapter says.
        base: where the base is, instead of where the adapter says.

    Raises:
        ModelLoadError: if no base is known, it cannot be reached, or it is an adapter itself.
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
    """Put an adapter on its base; the model keeps its class, so it streams as before.

    :func:`switch_adapter` then gives the base's outputs, in the position scheme of the adapter, and back.

    Raises:
        ModelLoadError: if peft is missing, or the adapter does not fit the base.
    """
    require_peft()
    from peft import PeftConfig, load_peft_weights

    try:
        weights = load_peft_weights(adapter.source, device="cpu")
        # peft drops this suffix when it saves DoRA, and transformers does not put it back.
        weights = {f"{k}.weight" if k.endswith("lora_magnitude_vector") else k: v for k, v in weights.items()}
        peft_config = PeftConfig.from_pretrained(adapter.source)
        report = model.load_adapter(peft_config=peft_config, adapter_state_dict=weights).to_dict()
    except Exception as error:  # damaged files fail in as many ways as there are formats
        raise ModelLoadError(
            f"{adapter.source}: the adapter cannot be loaded (missing or damaged?): {one_line(error)}"
        ) from error
    check_report(adapter.source, report, "adapter weights", _OTHER_BASE)


def merge_into(model: LiveCCForConditionalGeneration, source: str) -> LiveCCForConditionalGeneration:
    """Fold an adapter into the weights of its base, in the base's own precision; return the base, without adapter.

    Args:
        model: the base, not quantised, on the device where it is merged.
        source: folder or Hub id of the adapter.

    Raises:
        ModelLoadError: if peft is missing, the adapter does not fit the base, or it is of a kind that does not merge.
    """
    require_peft()
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    try:
        wrapped = PeftModel.from_pretrained(model, source, torch_device=str(model.device))
        expected, saved = set(get_peft_model_state_dict(wrapped)), set(load_peft_weights(source, device="cpu"))
    except Exception as error:  # damaged files fail in as many ways as there are formats
        raise ModelLoadError(
            f"{source}: the adapter cannot be loaded (damaged, or made for another base?): {one_line(error)}"
        ) from error
    if expected != saved:
        odd = expected ^ saved
        raise ModelLoadError(
            f"{source}: {len(odd)} adapter weights do not fit the base, such as {min(odd)}: {_OTHER_BASE}"
        )
    try:
        merged = wrapped.merge_and_unload(safe_merge=True)
    except ValueError as error:  # weights that are not finite, or a kind of adapter that does not merge
        raise ModelLoadError(f"{source}: the adapter cannot be merged: {error}") from error
    if hasattr(merged, "peft_config"):
        del merged.peft_config  # of what is there no more
    return merged


def switch_adapter(model: LiveCCForConditionalGeneration, on: bool) -> None:
    """Switch a model's adapter on or off; off, the model is the base in the adapter's position scheme.

    Also switches what the adapter trained in full (`lora_modules_to_save`), which transformers'
    `model.enable_adapters()` leaves off, and works with any peft, of which `model.disable_adapters()` of transformers
    5.24 asks for one that is not out yet.

    Args:
        model: a model with an adapter, as `load_model` returns.
        on: whether the adapter is to be on.
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
    """Write what must stand beside `adapter_model.safetensors` and `adapter_config.json`.

    That is: `config.json` with the position scheme it was trained in, the model's code, the processor, and a
    `README.md` that says how to use and merge the adapter; `adapter_config.json`, where it is there already, gets
    the base's name (a folder's as an absolute path, so that it is found from anywhere) and revision.

    Args:
        folder: where `PeftModel.save_pretrained` wrote, or will write.
        config: the trained model's config.
        processor: the processor it was trained with.
        base: folder or Hub id of the base model.
        base_revision: the base's revision on the Hub.
        about: further fields of `CardFacts` for the card, such as `training`.
    """
    from transformers.dynamic_module_utils import custom_object_save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):  # how the base was held while training, not what the adapter needs
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
        # Replaced in one step: a process killed here leaves a checkpoint that still loads.
        write_text(path, json.dumps(values, indent=2, sort_keys=True) + "\n")
    card = folder / CARD_FILE
    if not card.exists() or _PEFT_TEMPLATE_MARK in card.read_text(encoding="utf-8"):  # never over the user's own
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

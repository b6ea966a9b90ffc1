"""Adapter folders: the trained difference to a base model, and what must stand beside it to run it again."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..messages import one_line
from ..utils.extras import MissingExtraError, require_extra
from .cards import CARD_FILE, CardFacts, short_name, write_card
from .loading import ModelLoadError, check_report, hub_message

if TYPE_CHECKING:
    from ..modeling import LiveCCConfig, LiveCCForConditionalGeneration, StreamingProcessor

CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
_PROCESSOR_FILES = ("processor_config.json", "tokenizer_config.json")
_PEFT_TEMPLATE_MARK = "[More Information Needed]"


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter says about itself.

    Attributes:
        source: the folder or Hub id.
        base: folder or Hub id of the model it was trained on; `None` if it names none.
        base_revision: the base's revision on the Hub; `None`: its newest.
        position_scheme: the scheme it was trained in; `None` if it was saved without one.
        has_processor: whether the processor's files stand beside it.
    """

    source: str
    base: str | None
    base_revision: str | None
    position_scheme: str | None
    has_processor: bool


def read_adapter(source: str | os.PathLike) -> AdapterInfo | None:
    """Read what an adapter folder or Hub repository says.

    Returns:
        `None` if `source` holds no adapter, or holds a whole model beside it.

    Raises:
        ModelLoadError: if its `adapter_config.json` or `config.json` cannot be read, or the Hub cannot be reached.
    """
    source = str(Path(source).expanduser()) if str(source).startswith("~") else str(source)
    path = _find_file(source, ADAPTER_CONFIG_FILE)
    # A whole model with an adapter in its folder is loaded, adapter included, by transformers itself.
    if path is None or (Path(source).is_dir() and any(Path(source).glob("model*.safetensors"))):
        return None
    values = _read_json(source, path)
    config_path = _find_file(source, CONFIG_FILE)
    config = _read_json(source, config_path) if config_path else {}
    return AdapterInfo(
        source=source,
        base=values.get("base_model_name_or_path") or None,
        base_revision=values.get("revision"),
        position_scheme=config.get("position_scheme"),
        has_processor=any(_find_file(source, name) for name in _PROCESSOR_FILES),
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
        on_adapter = read_adapter(source) is not None
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

    `model.disable_adapters()` then gives the base's outputs, in the position scheme of the adapter; to come back
    from there, see :func:`switch_adapter`.

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
    meaning = "it was made for another base model; name the right one with base / --base"
    check_report(adapter.source, report, "adapter weights", meaning)


def switch_adapter(model: LiveCCForConditionalGeneration, on: bool) -> None:
    """Switch a model's adapter on or off; off, the model is the base in the adapter's position scheme.

    Also brings back what the adapter trained in full (`lora_modules_to_save`), which `model.enable_adapters()` of
    transformers 5.23 leaves off after `model.disable_adapters()`.

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

    from ..modeling import LiveCCForConditionalGeneration

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
        values = _read_json(str(folder), path)
        values |= {"base_model_name_or_path": base, "revision": None if is_folder else base_revision}
        # Replaced in one step: a process killed here leaves a checkpoint that still loads.
        part = path.with_suffix(".json.part")
        part.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(path)
    card = folder / CARD_FILE
    if not card.exists() or _PEFT_TEMPLATE_MARK in card.read_text(encoding="utf-8"):  # never over the user's own
        name = short_name(base)
        facts = CardFacts(
            f"Adapter on {name}, for live commentary",
            f"Trained with livecc-hf on `{name}`.",
            config.position_scheme,
            source=base,
            relation="adapter",
            source_revision=None if is_folder else base_revision,
            **about,
        )
        write_card(folder, facts)


def _find_file(source: str, name: str) -> str | None:
    """Path of a file in a folder or Hub repository, `None` if it is not there.

    Raises:
        ModelLoadError: if the Hub cannot be reached, and nothing of the repository is in the cache.
    """
    if Path(source).is_dir():
        path = Path(source) / name
        return str(path) if path.is_file() else None
    if not looks_like_hub_id(source):
        return None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return hf_hub_download(source, name)
    except LocalEntryNotFoundError as error:  # the Hub was not reached
        if any(isinstance(try_to_load_from_cache(source, known), str) for known in (CONFIG_FILE, ADAPTER_CONFIG_FILE)):
            return None
        raise ModelLoadError(hub_message(source, error)) from error  # rather than wait as long for the next file
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError):  # what is wrong besides, `read_config_dict` says
        return None


def looks_like_hub_id(source: str) -> bool:
    """Whether `source` has the form `owner/name`, and no folder or file has that name."""
    is_path = Path(source).exists() or source.startswith((".", "~", os.sep)) or Path(source).is_absolute()
    return not is_path and not source.endswith("/") and source.count("/") == 1


def _read_json(source: str, path: str | os.PathLike) -> dict:
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{source}: {path.name} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelLoadError(f"{source}: {path.name} holds no JSON object")
    return values

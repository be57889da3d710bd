"""A folder that peft saved, turned into an adapter folder of ours: the same tensors, and what its config says of them.

peft knows many variants of a method, and one that is passed over in silence still talks. So every value of
adapter_config.json is one that we carry out, one that only concerns training or peft itself, or refused by its name.
Which matrices LoRA covers is read off the tensors: the config may say it by patterns and by exceptions from them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from thinkling.core.errors import ModelError
from thinkling.core.files import whole_folder
from thinkling.core.language import tr
from thinkling.model.names import ADAPTER_WEIGHTS, PEFT_CONFIG, RECORD
from thinkling.model.weights import open_adapter
from thinkling.tokenizer.tokenizer import Tokenizer

FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_[AB]\.weight")
NEUTRAL: tuple[Any, ...] = (None, False, "none", [], {})
"""Values that ask for nothing."""
OF_PEFT = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "task_type"}
HARMLESS = {
    "LORA": {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"}
    | {"megatron_core", "qalora_group_size", "eva_config"},
    "IA3": {"target_modules", "exclude_modules", "feedforward_modules", "init_ia3_weights"},
    "PROMPT_TUNING": {"token_dim", "num_attention_heads", "num_layers", "tokenizer_kwargs", "tokenizer_name_or_path"}
    | {"prompt_tuning_init", "prompt_tuning_init_text"},
    "PREFIX_TUNING": {"token_dim", "num_attention_heads", "num_layers", "encoder_hidden_size", "init_weights"}
    | {"prefix_projection"},
}
"""What the tensors say as well, or what matters in training alone."""
FIRST_FACTORS = (True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin LoRA that leave the base as it is: others (pissa, olora, corda, loftq) belong to a changed one."""


def base_named(folder: Path) -> str:
    """The base model that adapter_config.json names, as it names it.

    Raises:
        ModelError: It names none, or is damaged.
    """
    name = _values(folder).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ModelError(
            tr("this adapter does not name its base model"),
            where=str(folder / PEFT_CONFIG),
            fix=tr('write the model\'s folder or hub id there: "base_model_name_or_path": "org/name"'),
        )
    return name


def convert(folder: Path, base: Mapping[str, str], target: Path) -> None:
    """Write an adapter folder of ours, whole or not at all.

    Args:
        folder: With adapter_config.json and adapter_model.safetensors, as peft saves them.
        base: `name`, `hash` and `folder` of its base model.
        target: The new folder.

    Raises:
        ModelError: A pickle, a damaged file, or something in the config that is not carried out here, by its name.
    """
    with open_adapter(folder / ADAPTER_WEIGHTS) as opened:
        tensors = list(opened.keys())
    settings = settings_of(_values(folder), tensors, str(folder / PEFT_CONFIG))
    tokenizer = Tokenizer.load(folder if (folder / "tokenizer.json").is_file() else Path(base["folder"]))
    with whole_folder(target) as new:
        shutil.copyfile(folder / ADAPTER_WEIGHTS, new / ADAPTER_WEIGHTS)
        shutil.copyfile(Path(base["folder"]) / "config.json", new / "config.json")
        tokenizer.save(new)
        (new / RECORD).write_text(json.dumps({**settings, "base": dict(base)}, indent=2) + "\n", encoding="utf-8")


def settings_of(values: Mapping[str, Any], tensors: Collection[str], where: str) -> dict[str, Any]:
    """The setting `tuning` of the same function as peft's config and tensors.

    Raises:
        ModelError: Something in it is not carried out here.
    """
    kind = values.get("peft_type")
    readers: dict[str, Callable[[], dict[str, Any]]] = {
        "LORA": lambda: _lora(values, tensors, where),
        "IA3": lambda: {"method": "ia3"},
        "PROMPT_TUNING": lambda: {"method": "prompt", **_virtual(values, where)},
        "PREFIX_TUNING": lambda: {"method": "prefix", "prefix_projection": False, **_virtual(values, where)},
    }
    if not isinstance(kind, str) or kind not in readers:
        raise _refused(tr("peft's method {kind} is not carried out here", kind=kind), where)
    carried_out = {"r", "lora_alpha", "use_rslora", "use_dora", "init_lora_weights"} if kind == "LORA" else set()
    carried_out |= {"num_virtual_tokens", "num_transformer_submodules"} if kind.endswith("_TUNING") else set()
    for name, value in values.items():
        if name not in OF_PEFT | HARMLESS[kind] | carried_out and value not in NEUTRAL:
            raise _refused(tr("{setting} of peft is not carried out here", setting=f"{name} = {value!r:.60}"), where)
    return readers[kind]()


def _lora(values: Mapping[str, Any], tensors: Collection[str], where: str) -> dict[str, Any]:
    begun = values.get("init_lora_weights", True)
    if begun not in FIRST_FACTORS:
        raise _refused(tr("{setting} of peft is not carried out here", setting=f"init_lora_weights = {begun!r}"), where)
    return {
        "method": "lora",
        "rank": _number(values, "r", where),
        "alpha": _number(values, "lora_alpha", where),
        "targets": sorted({found[1] for name in tensors if (found := FACTOR.fullmatch(name))}),
        "rslora": values.get("use_rslora") is True,
        "dora": values.get("use_dora") is True,
    }


def _virtual(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    submodules = values.get("num_transformer_submodules")
    if submodules not in (None, 1):
        said = f"num_transformer_submodules = {submodules!r:.60}"
        raise _refused(tr("{setting} of peft is not carried out here", setting=said), where)
    return {"num_virtual_tokens": _number(values, "num_virtual_tokens", where)}


def _number(values: Mapping[str, Any], name: str, where: str) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise _refused(tr("{setting} is no number above 0", setting=f"{name} = {value!r:.60}"), where)
    return value


def _refused(what: str, where: str) -> ModelError:
    fix = tr("open it with transformers and peft, merge_and_unload there, save the whole model, and name its folder")
    return ModelError(what, where=where, fix=fix)


def _values(folder: Path) -> dict[str, Any]:
    file = folder / PEFT_CONFIG
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelError(
            tr("{name} is damaged: {error}", name=file.name, error=error),
            where=str(file),
            fix=tr("take the adapter from where it came from again"),
        ) from error

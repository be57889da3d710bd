"""Which parameters a stage trains: the setting `tuning`, carried out by an entry of the shelf of that name.

A stage holds the setting as plain values, checked when the recipe is read; `tune` applies it to the model, `merge`
takes it back into plain weights. engine/adapter.py saves and loads; engine/coverage.py says before the training what
will be trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from thinkling.core import shelf
from thinkling.core.config import Config, resolve
from thinkling.core.errors import ConfigError, ModelError
from thinkling.core.language import tr
from thinkling.model.adapted import Tuned
from thinkling.model.decoder import Decoder

SHELF = "tuning"
WHERE = "tuning"
"""The name of the setting, for messages."""


def method_of(settings: Mapping[str, Any]) -> ModuleType:
    """The entry that a `tuning` setting names.

    Raises:
        ConfigError: No such method.
    """
    return shelf.entry(SHELF, str(settings["method"]))


def config_of(settings: Mapping[str, Any]) -> Any:
    """The Config of the entry, from a `tuning` setting."""
    values = {key: value for key, value in settings.items() if key != "method"}
    kind: type[Config] = method_of(settings).Config
    return resolve(kind, values, WHERE)


def checked(settings: Any) -> dict[str, Any]:
    """A `tuning` setting with every default written out. A bare name is short for {method: NAME}.

    Raises:
        ConfigError: No such method, an unknown setting of it, a value out of range.
    """
    if isinstance(settings, str):
        settings = {"method": settings}
    if not isinstance(settings, Mapping) or not isinstance(settings.get("method"), str):
        raise ConfigError(
            tr("tuning names no method"),
            where=f"{WHERE} = {settings!r}",
            fix=tr("write tuning='{{method: NAME}}' with one of {names}", names=", ".join(shelf.names(SHELF))),
        )
    return {"method": settings["method"], **config_of(settings).model_dump(mode="json")}


def tune(model: Decoder, settings: Mapping[str, Any], base: Mapping[str, Any]) -> None:
    """Apply a checked setting to a plain model, in place.

    Args:
        base: Identity of the model, for the record: see `Tuned`.

    Raises:
        ConfigError: The method does not fit this model: a target that is nothing in it, a rank above its width.
    """
    assert model.tuned is None, model.tuned
    method_of(settings).apply(model, config_of(settings))
    model.tuned = Tuned(str(settings["method"]), {k: v for k, v in settings.items() if k != "method"}, dict(base))


def is_adapter(model: Decoder) -> bool:
    """Whether a checkpoint of this model keeps only what was trained."""
    return model.tuned is not None and bool(shelf.entry(SHELF, model.tuned.method).IS_ADAPTER)


def merge(model: Decoder) -> None:
    """Fold what was trained into plain weights, in place; a plain model stays as it is.

    Raises:
        ModelError: The method cannot be written as plain weights.
    """
    if model.tuned is None:
        return
    entry = shelf.entry(SHELF, model.tuned.method)
    if not entry.MERGES:
        raise ModelError(
            tr("what {method} trained cannot be folded into the weights", method=model.tuned.method),
            where=str(model.tuned.base.get("name", "")),
            fix=tr("train on from the base model, or tune with a method that merges, such as lora"),
        )
    entry.merge(model)
    model.tuned = None

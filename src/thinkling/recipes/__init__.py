"""Recipes: a named list of stages with their settings, in YAML, checked whole before the first step.

    name: first-steps
    about: one line that `thinkling run --help` shows
    variables:
      model: smollm2-135m
    stages:
      - sft:
          name: sft
          model: ${model}
      - evaluate:
          name: after
          model: "@sft"

A stage is a module of the shelf `stages` (or a file of your own, `./my_stage.py`) with a `Config` that has a `name`,
and `run(config, run, progress, earlier)`; with `promise(config, progress)` a dry run shows its plan. `${model}` is a
variable; a setting that is "@sft" and nothing else means the result of the earlier stage named sft. Overrides
`sft.learning_rate=1e-4` address a stage by its name; a key alone addresses the variable of that name, or the only stage
that knows it. `script` writes the same as a Python program.
"""

from __future__ import annotations

from thinkling.recipes.comparing import multiplied
from thinkling.recipes.editors import schema
from thinkling.recipes.loading import Recipe, StageSpec, build, find, load, names, plain
from thinkling.recipes.promises import promise
from thinkling.recipes.running import run
from thinkling.recipes.script import script

__all__ = [
    "Recipe",
    "StageSpec",
    "build",
    "find",
    "load",
    "multiplied",
    "names",
    "plain",
    "promise",
    "run",
    "schema",
    "script",
]

"""The checkpoints of one training: what is written into each, which are kept, and which one a run goes on from.

`engine/checkpoint.py` writes and reads one folder, whole or not at all. Here stands which folders a training needs: the
newest, those of an average, the one to go back to after a spike, and of each of these the best one that there was then.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from thinkling.core.errors import OtherRunError, RunError
from thinkling.core.files import damage, writing
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run, environment, read_json
from thinkling.engine import checkpoint
from thinkling.engine.averaging import FOLDER, MovingAverage, mean_of_files, members, save_average
from thinkling.engine.checkpoint import STATE
from thinkling.engine.gradient import refuse_broken_weights
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.selection import Look, best_look
from thinkling.engine.settings import TrainerConfig
from thinkling.model.decoder import Decoder
from thinkling.tokenizer.tokenizer import Tokenizer


class Keeper:
    """Saves one training, and brings it back.

    Args:
        fingerprint: What a resumed run must share (data hash, settings); a checkpoint of another one is refused.
    """

    def __init__(
        self,
        run: Run,
        model: Decoder,
        tokenizer: Tokenizer,
        optimizer: MasterAdamW,
        config: TrainerConfig,
        fingerprint: dict[str, Any],
        progress: Progress,
    ) -> None:
        self.run, self.model, self.tokenizer, self.optimizer = run, model, tokenizer, optimizer
        self.config, self.fingerprint, self.progress = config, fingerprint, progress
        self.average = MovingAverage(optimizer, config.average_decay) if config.average == "ema" else None
        self.saved = -1
        """The step of the newest checkpoint."""
        self._disk = ThreadPoolExecutor(1)
        self._awaited: Future[None] | None = None
        """Of the newest checkpoint, while the disk does not have it."""

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for the disk; what it refuses is raised, unless something else is on its way."""
        try:
            self.settle()
        except RunError as error:
            if kind is None:
                raise
            self.progress.note(str(error))
        finally:
            self._disk.shutdown()

    # writing ----------------------------------------------------------------------------------------------------

    def save(self, step: int, state: dict[str, Any], looks: Sequence[Look], *, final: bool) -> None:
        """Write the checkpoint of `step`, and drop those that nothing needs any longer.

        The training goes on while the disk takes it in: what was written is the kernel's, and a copy. Killed in that
        time, a run goes on from the checkpoint before.

        Args:
            state: What the loop needs to go on from here, beside weights and moments.
            looks: The validations so far; the best checkpoint stays.
            final: Whether the training ends with it: the average of the last checkpoints is taken then.

        Raises:
            NumericsError: A weight is not finite.
            RunError: No space is left, for this one or the one before; the older checkpoints are untouched.
        """
        self.settle()
        self.run.sync()  # a resumed run writes no line of an earlier step again
        refuse_broken_weights(self.model, f"after step {step}")  # or the last good checkpoint would be rotated out
        finish = checkpoint.begin(
            self.run,
            step,
            self.model,
            self.tokenizer,
            self.optimizer,
            {
                **state,
                "fingerprint": self.fingerprint,
                "machine": checkpoint.machine_kind(self.model),
                "environment": environment(),
            },
            keep=self.config.save_total_limit,
            spare=self._spared(step, looks),
            beside=functools.partial(self._save_average, step, final),
        )
        self._awaited = self._disk.submit(finish)
        self.saved = step

    def settle(self, *, wait: bool = True) -> None:
        """Have the newest checkpoint on the disk.

        Args:
            wait: Otherwise only what has failed meanwhile is raised.

        Raises:
            RunError: The disk did not take it; the older ones are untouched.
        """
        if self._awaited is not None and (wait or self._awaited.done()):
            awaited, self._awaited = self._awaited, None
            awaited.result()

    def _spared(self, step: int, looks: Sequence[Look]) -> set[int]:
        """Checkpoints that are still needed, however old: those to be averaged, the one to go back to, and the best;
        also what was the best at a checkpoint that stays, for the run may go back there and find nothing better."""
        steps = [*(s for s, _ in self.run.checkpoints() if s < step), step]
        stay = {*steps[-self.config.save_total_limit :]}
        if self.config.spike_action == "rollback":
            stay |= {*members(steps, step + 1, save_steps=self.config.save_steps, last=2)}
        metric = self.config.save_best
        bests = [best_look([look for look in looks if look["step"] <= s], metric) for s in stay] if metric else []
        averaged = self._averaged(step) if self.config.average == "last" else []
        return {*stay, *averaged, *(round(best["step"]) for best in bests if best is not None)}

    def _averaged(self, step: int) -> list[int]:
        """The steps whose weights would be averaged if the training ended with `step`, which stands last."""
        steps = [s for s, _ in self.run.checkpoints()]
        return members(steps, step, save_steps=self.config.save_steps, last=self.config.average_last)

    def _save_average(self, step: int, final: bool, folder: Path) -> None:
        """The average's own model folder, in the checkpoint that is being written."""
        values = None
        if self.average is not None:
            self.average.save(folder)
            values = self.average.values
        elif self.config.average == "last" and final:
            earlier = [self.run.checkpoint_dir(s) for s in self._averaged(step)[:-1]]
            values = mean_of_files(earlier, self.optimizer)
        if values is not None:
            save_average(self.model, self.tokenizer, self.optimizer, values, folder)

    def has_all(self, step: int) -> bool:
        """Whether `step` is saved with all that the end of a training has."""
        self.settle()
        lacks_average = self.config.average == "last" and not (self.run.checkpoint_dir(step) / FOLDER).is_dir()
        return self.saved == step and not lacks_average

    # reading ----------------------------------------------------------------------------------------------------

    def to_go_on_from(self) -> checkpoint.Checkpoint | None:
        """The newest whole checkpoint, None where there is none; another kind of machine is announced.

        Raises:
            OtherRunError: It belongs to other data or settings.
            RunError: Every one is damaged.
        """
        found = checkpoint.newest(self.run, self.progress)
        if found is None:
            return None
        _refuse_difference(self.run, found.state, self.fingerprint)
        now = checkpoint.machine_kind(self.model)
        then_now = ((name, then, now.get(name)) for name, then in found.state["machine"].items())
        changed = [tr("{name} {now} instead of {then}", name=k, now=n, then=t) for k, t, n in then_now if n != t]
        if changed:
            said = "resuming with {changes}: the numbers will differ in the last bits from a run never stopped"
            self.progress.note(tr(said, changes=", ".join(changed)))
        return found

    def to_go_back_to(self) -> checkpoint.Checkpoint | None:
        """The newest whole checkpoint of save_steps: what Ctrl-C or a best validation left between is none of them.

        Raises:
            RunError: As `settle`.
        """
        self.settle()
        return checkpoint.newest(self.run, self.progress, every=self.config.save_steps)

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: the run has gone back, and shall never go on from them."""
        for later, folder in self.run.checkpoints():
            if later > step:
                with writing(folder):
                    shutil.rmtree(folder)

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Weights, moments and the moving average as they were.

        Raises:
            RunError: There is no average in it, and there should be.
        """
        found.restore(self.optimizer)
        self.optimizer.forget()
        if self.average is not None:
            self.average.restore(found.path)
        self.saved = found.step


def refuse_another_origin(run: Run, fingerprint: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was made from something else, by its newest state that can be read.

    To be called before anything is written. Whether a checkpoint is whole is for `Keeper.to_go_on_from`.

    Args:
        fingerprint: What a resumed run must share, or the part of it that is known so far.

    Raises:
        OtherRunError: It differs from what the run's checkpoints were made with.
    """
    readable = (folder for _, folder in reversed(run.checkpoints()) if damage(folder, STATE) is None)
    newest = next(readable, None)
    if newest is not None:
        _refuse_difference(run, read_json(newest / STATE), fingerprint)


def _refuse_difference(run: Run, state: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
    for key, value in fingerprint.items():
        then = state["fingerprint"].get(key)
        if then != value:
            facts = {"what": tr(key), "then": then, "now": value}
            raise OtherRunError(
                tr("the {what} has changed since the checkpoint was made ({then}, now {now})", **facts),
                where=str(run.path),
                fix=tr("bring back what it was made with, choose another folder with run_dir=PATH, or delete this one"),
            )

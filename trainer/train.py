"""`dofbot train`: what happens between two chunks of any training, and every way in which our own SAC's may end."""

import contextlib
import math
import pickle
import signal
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from torch import nn

from edge.contract import Contract
from edge.errors import DofbotError
from trainer import checkpoint, spec
from trainer.env import DofbotGrasp
from trainer.evaluate import Act, Open, act_of, evaluate
from trainer.runlog import EVERY_STEPS, Row, RunLog
from trainer.sac.collector import Collector
from trainer.sac.sac import N_ENVS, Learner, NotFiniteError, Progress, Settings, train

CHECKPOINT_STEPS = 10_000
SNAPSHOT_STEPS = 2_000  # of the actor alone, 0.4 MB: what a study of the training plays afterwards
SCREEN_SEED = 2_000_000  # plus the step count: neither training nor the final evaluation ever sees these blocks
SCREEN_EPISODES, CONFIRM_EPISODES = 100, 900  # 1000 in all: 990 of them have a 95 % interval of 98.2 to 99.5 %
SCREEN_AGAIN_STEPS = 4_000  # after a screen that failed
SCREEN_SLACK = 0.03  # exploring costs success: a training window this much below the goal is worth a screen

Ending = Literal["steps done", "success confirmed", "interrupted"]


class Run:
    """Between two chunks: log, save, screen when it is worth it, and decide whether to stop."""

    def __init__(
        self,
        log: RunLog,
        env_steps: int,
        until_success: float,
        save: Callable[[], None],
        snapshot: Callable[[], None],
        opener: Callable[[], Open],
        stop_asked: Callable[[], bool],
    ) -> None:
        self.ending: Ending = "steps done"
        self._log, self._until_success = log, until_success
        self._save, self._snapshot, self._opener, self._stop_asked = save, snapshot, opener, stop_asked
        self._logged_steps = self._saved_steps = self._snapped_steps = env_steps
        self._screened_steps = env_steps - SCREEN_AGAIN_STEPS

    def report(self, row: Row) -> bool:
        """What a training tells after each chunk; the answer is whether to stop."""
        steps = row.env_steps
        self._log.show(steps, row.success)
        if self._is_worth_a_screen(row):
            self._screened_steps = self._logged_steps = steps
            success, is_confirmed = self._screen(steps)
            self._log.write(row._replace(eval_success=success))
            if is_confirmed:
                self.ending = "success confirmed"
                return True
        elif steps - self._logged_steps >= EVERY_STEPS:
            self._logged_steps = steps
            self._log.write(row)
        if self._stop_asked():
            self.ending = "interrupted"
            return True
        if steps - self._snapped_steps >= SNAPSHOT_STEPS:
            self._snapped_steps = steps
            self._snapshot()
        if steps - self._saved_steps >= CHECKPOINT_STEPS:
            self._saved_steps = steps
            self._save()
        return False

    def _is_worth_a_screen(self, row: Row) -> bool:
        return (
            self._until_success > 0.0
            and row.spawn_fraction == 1.0
            and row.success >= self._until_success - SCREEN_SLACK
            and row.env_steps - self._screened_steps >= SCREEN_AGAIN_STEPS
        )

    def _screen(self, steps: int) -> tuple[float, bool]:
        """Success on fresh blocks without exploring, and whether it is enough; the long part is played only after a good short one."""
        success = math.nan
        with contextlib.closing(evaluate(self._opener(), SCREEN_EPISODES + CONFIRM_EPISODES, SCREEN_SEED + steps)) as outcomes:
            for episodes in (SCREEN_EPISODES, CONFIRM_EPISODES):
                part = takewhile(lambda _: not self._stop_asked(), islice(outcomes, episodes))
                successes = [outcome.is_success for outcome in part]
                if len(successes) < episodes:  # interrupted: says nothing
                    return math.nan, False
                success = float(np.mean(successes))
                if success < self._until_success:
                    return success, False
        return success, True


def train_sac(out: Path, settings: Settings, until_success: float, variant: spec.Variant = "depth") -> tuple[Ending, Row]:
    """Start a run in `out`; how it ended, and its last figures. Raises `DofbotError` where there is a run already."""
    contract = spec.contract(variant)
    return _run(out, checkpoint.new_header(settings, contract), Learner(contract, settings), until_success)


def resume_sac(path: Path, env_steps: int | None, until_success: float) -> tuple[Ending, Row]:
    """Go on from a run's folder or checkpoint, with its settings, to `env_steps` in all."""
    path = path / checkpoint.NAME if path.is_dir() else path
    found = checkpoint.load(path)
    contract = spec.contract(found.header.contract.variant)
    checkpoint.check_contract(path, found.header.contract, contract)
    if found.learner is None:
        raise DofbotError(f"checkpoint {path} holds the actor alone; resume from the run's {checkpoint.NAME}")
    header = more_steps(found.header, env_steps, found.env_steps)
    learner = Learner(contract, header.settings)
    learner.load_state_dict(found.learner)
    return _run(path.parent, header, learner, until_success)


def more_steps(header: checkpoint.Header, env_steps: int | None, done: int) -> checkpoint.Header:
    """The header of a run that goes on to `env_steps`; raises `DofbotError` when these are done already."""
    wanted = env_steps or header.settings.env_steps
    if wanted <= done:
        raise DofbotError(f"the run has {done} steps already, expected fewer than the {wanted} wanted; give more --steps")
    return msgspec.structs.replace(header, settings=msgspec.structs.replace(header.settings, env_steps=wanted))


def opener(actor: nn.Module, contract: Contract, randomisation: float) -> Open:
    """Opens an actor as it is now, with a world, in another process; for `trainer.evaluate`."""
    return partial(_unpickle, pickle.dumps(actor), contract, randomisation)  # bytes: torch would share a tensor's memory


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM only leave a note, for the run to stop between two chunks; a second one is a KeyboardInterrupt."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _run(out: Path, header: checkpoint.Header, learner: Learner, until_success: float) -> tuple[Ending, Row]:
    settings, randomisation = learner.settings, learner.settings.randomisation
    last = Row(learner.env_steps, learner.wall_s)

    def save() -> None:
        checkpoint.save(out / checkpoint.NAME, header, learner)

    def snapshot() -> None:
        checkpoint.save_actor(out / "actors" / f"{learner.env_steps}.pt", header, learner)

    def open_now() -> Open:
        return opener(learner.actor, header.contract, randomisation)

    def report(progress: Progress) -> bool:
        nonlocal last
        last = Row(*progress)
        return run.report(last)

    with interrupts() as stop_asked, RunLog(out, settings.env_steps, learner.env_steps, learner.wall_s) as log:
        run = Run(log, learner.env_steps, until_success, save, snapshot, open_now, stop_asked)
        make_env = partial(DofbotGrasp, header.contract, settings.reward, randomisation)
        collector = Collector(make_env, N_ENVS, (settings.seed, learner.env_steps))
        try:
            train(learner, collector, report)
            save()
            snapshot()
        except NotFiniteError as error:
            remedy = f"go on from the last checkpoint with --resume {out}" if (out / checkpoint.NAME).exists() else "try another --seed"
            raise NotFiniteError(f"{error}; {remedy}") from None
        finally:
            collector.close()
    return run.ending, last


def _unpickle(pickled: bytes, contract: Contract, randomisation: float) -> tuple[DofbotGrasp, Act]:
    return DofbotGrasp(contract, randomisation=randomisation), act_of(pickle.loads(pickled))

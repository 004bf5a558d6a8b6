"""The checkpoints of one run, over all its ranks: it resumes from them and saves them."""

import logging
from pathlib import Path
from typing import NoReturn

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from matta_core import distributed
from matta_core.checkpoints import build_model, non_finite
from matta_core.errors import ToldToEndError, TrainingDivergedError, UserError, some_of
from matta_core.nesting.size import Granularity
from matta_core.nesting.slices import cuts
from matta_core.pretrained import moved
from matta_core.recipe import TrainConfig
from matta_core.training.optimizers import ModelOptimizer, make_optimizer
from matta_core.training.state import (
    DamagedStateError,
    load_state,
    read_state,
    save_state,
    state_folder,
    state_folders,
    tensors_of,
)
from matta_core.training.step import Training

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints below a folder. `step` is the number of steps in the newest good one; 0 without one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.step = 0

    def resume(
        self, config: TrainConfig, model_config: PreTrainedConfig, model_class: str, device: torch.device
    ) -> tuple[PreTrainedModel, ModelOptimizer, dict[str, Granularity]] | None:
        """TA, optimizer and sizes of the newest checkpoint that is whole and this run's; None where there is none yet.

        Raises: UserError where there are checkpoints and all are damaged.
        """
        problems = []
        for folder in state_folders(self._folder):
            try:
                state = read_state(folder)
                if state.sizes.keys() != config.sizes.keys():
                    raise DamagedStateError(f"{folder} is of other sizes than the recipe's")
                ta = moved(build_model(model_config, config.seed, model_class), device)
                optimizer = make_optimizer(ta, config, cuts(ta, state.sizes.values()))
                load_state(state, ta, optimizer)
            except DamagedStateError as error:
                logger.warning("%s: going on from the checkpoint before it", error)
                problems.append(str(error))
                continue
            self.step = state.step
            break
        # For a while, a volume may show different files to the ranks.
        leaders = torch.tensor(self.step, device=device)
        distributed.copy_from_leader([leaders])
        if leaders.item() != self.step:
            raise RuntimeError(
                f"rank {distributed.rank()} finds a checkpoint of step {self.step} in {self._folder}, rank 0 one of "
                f"step {leaders.item()}: run the same command again"
            )
        if self.step:
            return ta, optimizer, dict(state.sizes)
        if problems:
            raise UserError(
                f"every checkpoint in {self._folder} is damaged: delete the folder, and the run begins anew "
                f"({'; '.join(problems)})"
            )
        return None

    def save(self, step: int, training: Training) -> None:
        """Save the state after `step` steps, unless it is the resumed or last saved one. All ranks call it; rank 0
        writes.

        Raises: TrainingDivergedError, in every rank, where a step's loss or gradient, a weight or the optimizer's state
        is not finite.
        """
        if step == self.step:
            return
        training.figures.check()
        state = [*training.ta.named_parameters(), *tensors_of(training.optimizer).items()]
        broken = non_finite(state)
        anywhere = torch.tensor(float(len(broken)), device=training.device)
        distributed.sum_over_ranks([anywhere])
        if anywhere.item():
            where = some_of(broken) if broken else "another rank"
            raise TrainingDivergedError(f"training diverged in step {step}: it left NaN or infinity in {where}")
        if distributed.rank() == 0:
            save_state(self._folder, step, training.ta, training.optimizer, training.granularities)
        self.step = step

    def save_and_end(self, step: int, training: Training) -> NoReturn:
        """Save and end, in all ranks, after one was told to end. Raises: ToldToEndError once the state is saved."""
        self.save(step, training)
        distributed.wait_for_all()  # when the first rank ends, torchrun ends the others
        distributed.stop()
        saved = f"is saved in {state_folder(self._folder, step)}" if step else "is the beginning"
        raise ToldToEndError(
            f"told to end (SIGTERM): step {step} of {training.config.steps} {saved}; the same command goes on from it"
        )

    def last_good(self) -> str:
        """The last good checkpoint in words, for a message."""
        if not self.step:
            return "no checkpoint was written before it"
        return f"the last good checkpoint is kept in {state_folder(self._folder, self.step)}"

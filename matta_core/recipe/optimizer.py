"""Which of the four optimizers trains, and its settings."""

from dataclasses import dataclass

from matta_core.recipe.settings import Section, setting

PRECONDITIONED = ("shampoo", "soap")


@dataclass(frozen=True)
class OptimizerConfig(Section):
    """AdamW for all parameters; or Shampoo, SOAP or Muon for the hidden matrices and AdamW for the rest.

    learning_rate means the same for all four: the size of AdamW's update. Shampoo takes the size of each block's update
    from RMSProp with momentum, SOAP is Adam in another basis, and Muon's update is scaled to AdamW's RMS.
    """

    name: str = setting("adamw", choices=("adamw", "shampoo", "soap", "muon"))
    beta1: float | None = setting(
        None,
        low=0.0,
        high=0.999,
        help="decay of the gradients' mean per step, Muon's momentum; none: 0.9 for adamw and shampoo, 0.95 for soap "
        "and muon. The rest, that AdamW trains, keeps 0.9",
    )
    beta2: float = setting(
        0.95, low=0.0, high=0.99999, help="decay of the squared gradients per step, and of the preconditioners"
    )
    epsilon: float = setting(1e-8, above=0.0, high=1e-2, help="added to the root of the squared gradients")
    preconditioner_every_steps: int = setting(
        10,
        low=1,
        unit="optimizer steps",
        help="shampoo and soap: how often roots or eigenbases are computed anew; until its first ones, shampoo is its "
        "graft, RMSProp with momentum",
    )
    max_block_size: int = setting(
        1024,
        low=2,
        high=16384,
        unit="rows or columns",
        help="shampoo and soap: longer sides of a matrix are cut; two preconditioners of this side are kept per block, "
        "and time grows with its cube",
    )

    def check(self) -> None:
        if self.name in PRECONDITIONED:
            return
        for name in ("preconditioner_every_steps", "max_block_size"):
            value, default = getattr(self, name), OptimizerConfig.__dataclass_fields__[name].default
            if value != default:
                raise ValueError(
                    f"{name} is of {' and '.join(PRECONDITIONED)} only, got {value} with {self.name}: leave it out"
                )

    @property
    def momentum(self) -> float:
        """beta1, or the optimizer's usual value."""
        if self.beta1 is not None:
            return self.beta1
        return 0.9 if self.name in ("adamw", "shampoo") else 0.95

"""How flat is a minimum: measures of any pytree of parameters and any evaluation function."""

from flatjax.flatness.local_energy import LocalEnergy, local_energy

__all__ = ["LocalEnergy", "local_energy"]

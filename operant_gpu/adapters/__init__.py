"""Environments as other trainers want them: a file for each library, imported when it is asked for.

In go a definition and its settings, out comes the kind of environment that the trainer steps. What a trainer keeps is
copied on the environments' device, and nothing else. This room must not know how anything is learned or computed here.
"""

from typing import NamedTuple


class Adapter(NamedTuple):
    """What stands in a module of this package.

    Attributes:
        name: Of the class, which takes an environment's id or definition, `num_envs`, and settings of `VecEnv`.
        tried: Versions of the trainer's distributions that the tests ran with, by name.
    """

    name: str
    tried: dict[str, str]


# By module.
ADAPTERS = {
    "rsl_rl": Adapter("RslRlVecEnv", {"rsl-rl-lib": "5.5.1"}),
    "sb3": Adapter("SB3VecEnv", {"stable-baselines3": "2.9.2", "sb3-contrib": "2.9.2"}),
    "single": Adapter("SingleEnv", {"gymnasium": "1.4.0"}),
    "skrl": Adapter("SkrlEnv", {"skrl": "2.1.1"}),
    "torchrl": Adapter("TorchRLEnv", {"torchrl": "0.14.1", "tensordict": "0.14.3"}),
}

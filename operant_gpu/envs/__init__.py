"""The environments that come with the library. Importing this module registers them.

A file each, which reads as physics; `drawing.py` has pictures, `checks.py`, `lakes.py` and `minatar/shared.py` what
several share. They know what authors write with, and nothing of what steps them.
"""

from operant_gpu.environment import Definition
from operant_gpu.envs.acrobot import Acrobot
from operant_gpu.envs.cartpole import CartPole
from operant_gpu.envs.frozen_lake import FrozenLake, FrozenLake8x8
from operant_gpu.envs.game_2048 import Game2048
from operant_gpu.envs.grid_walk import GridWalk
from operant_gpu.envs.lakes import frozen_lake_map
from operant_gpu.envs.minatar.asterix import Asterix
from operant_gpu.envs.minatar.breakout import Breakout
from operant_gpu.envs.minatar.freeway import Freeway
from operant_gpu.envs.minatar.seaquest import Seaquest
from operant_gpu.envs.minatar.space_invaders import SpaceInvaders
from operant_gpu.envs.mountain_car import MountainCar
from operant_gpu.envs.mountain_car_continuous import MountainCarContinuous
from operant_gpu.envs.pendulum import Pendulum
from operant_gpu.envs.snake import Snake
from operant_gpu.registry import register

__all__ = [
    "Acrobot",
    "Asterix",
    "Breakout",
    "CartPole",
    "Freeway",
    "FrozenLake",
    "FrozenLake8x8",
    "Game2048",
    "GridWalk",
    "MountainCar",
    "MountainCarContinuous",
    "Pendulum",
    "Seaquest",
    "Snake",
    "SpaceInvaders",
    "frozen_lake_map",
]

for _value in [globals()[_name] for _name in __all__]:
    if isinstance(_value, Definition):
        register(_value)

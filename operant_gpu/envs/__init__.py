"""The environments that come with the library. Importing this module registers them."""

from operant_gpu.envs.acrobot import Acrobot
from operant_gpu.envs.cartpole import CartPole
from operant_gpu.envs.grid_walk import GridWalk
from operant_gpu.envs.mountain_car import MountainCar
from operant_gpu.envs.mountain_car_continuous import MountainCarContinuous
from operant_gpu.envs.pendulum import Pendulum
from operant_gpu.registry import register

__all__ = ["Acrobot", "CartPole", "GridWalk", "MountainCar", "MountainCarContinuous", "Pendulum"]

for _environment in (Acrobot, CartPole, GridWalk, MountainCar, MountainCarContinuous, Pendulum):
    register(_environment)

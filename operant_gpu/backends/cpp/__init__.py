"""C++ on a CPU: environments written in CUDA C++, the learner's gradient steps, and rollouts in which a network acts.

In come sources of `operant_gpu/kernels/cpp` and `cuda`; `compiler.py` makes libraries of them with the machine's
compiler, once, and `learner.py` loads the learner's. It knows PPO by `operant_gpu/hyperparameters.py` alone.
"""

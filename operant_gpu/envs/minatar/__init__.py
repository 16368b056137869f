"""The MinAtar games (Young and Tian, "MinAtar: an Atari-inspired testbed", 2019), written in CUDA C++."""

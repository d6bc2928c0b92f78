"""Measurements of gpuica and of other implementations; `python -m benchmarks` lists them and runs them by name.

common/: command line, timing, processes, tables, description of the machine.  ica/: the comparison of ICA
implementations: problems, contestants, referee.  gpu/: figures of a GPU, and the tests that need one.  results/:
committed results, JSON lines, whose tables `python -m benchmarks report FILE` prints.
"""

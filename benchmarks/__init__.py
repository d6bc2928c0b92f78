"""Measurements of gpuica beside its peers: problems x contestants, judged by a referee that shares no code with them.

`python -m benchmarks.run --quick` compares, `python -m benchmarks.demo` shows one real job, and
`python -m benchmarks.pass_cost` says what one pass costs beside the matrix products that it cannot do without.
"""

"""`-p tests.kernels_plugin`, with pytest-xdist: tests of a kernel that takes long to compile go to the same worker.

Each process compiles for itself: every worker would compile most sweeps, and the coders' kernels, which take 5 to 10 s
each.
"""

import re

from xdist.scheduler import LoadScopeScheduling

KERNELS = {
    **dict.fromkeys(("lasso", "lasso_cd", "cd"), "lasso"),
    **dict.fromkeys(("omp", "ormp"), "orthogonal"),
    **dict.fromkeys(("nnomp", "matching_pursuit", "gradient_pursuit"), "other pursuits"),
}  # value of a parameter, or word after test_ -> what is compiled for it


def group(nodeid):
    """What a test is scheduled with: those of the same kernel and dtype; by default itself."""
    if "::test_a_sweep_is" in nodeid:  # [shape-contrast-dtype-weighted]
        return nodeid.partition("-")[2]
    words = re.split(r"[\[\]-]|::test_", nodeid)
    first = words[1].partition("_")[0] if len(words) > 1 else ""
    kernel = next((KERNELS[word] for word in [*words, first] if word in KERNELS), None)
    return f"{kernel} {'float32' if 'float32' in nodeid else ''}" if kernel else nodeid


class ByKernel(LoadScopeScheduling):
    """As `--dist loadscope`, with `group` for a scope."""

    def _split_scope(self, nodeid):
        return group(nodeid)


def pytest_xdist_make_scheduler(config, log):
    return ByKernel(config, log)

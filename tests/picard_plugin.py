"""A pytest plugin that puts gpuica's `picard` in place of python-picard's, also in python-picard's estimator:

pytest -p tests.picard_plugin test_solver.py
"""

import picard
import picard.dropin_sklearn
import picard.solver

import gpuica

MODULES = [picard, picard.solver, picard.dropin_sklearn]  # the last is the estimator's, which calls the function


def pytest_configure():
    for module in MODULES:
        module.picard = gpuica.picard


def pytest_collection_finish(session):
    for item in session.items:
        ours = getattr(item.module, "picard", gpuica.picard), *(module.picard for module in MODULES)
        assert set(ours) == {gpuica.picard}, "the tests would run against python-picard"

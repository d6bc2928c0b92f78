"""A pytest plugin that puts gpuica's classes and functions in place of scikit-learn's, so that scikit-learn's own test
files run against them unchanged:

    pytest -p tests.sklearn_plugin --pyargs sklearn.decomposition.tests.test_fastica
"""

import sklearn.decomposition

import gpuica


def pytest_configure():
    for name in ("FastICA", "fastica"):
        setattr(sklearn.decomposition, name, getattr(gpuica, name))


def pytest_collection_finish(session):
    for item in session.items:
        assert item.module.FastICA is gpuica.FastICA, "the tests would run against scikit-learn"

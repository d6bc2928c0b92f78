"""A pytest plugin that puts gpuica's classes and functions in place of scikit-learn's, so that scikit-learn's own test
files run against them unchanged:

    pytest -p tests.sklearn_plugin --pyargs sklearn.decomposition.tests.test_fastica
"""

import sklearn.decomposition

import gpuica

NAMES = """
DictionaryLearning FastICA MiniBatchDictionaryLearning SparseCoder dict_learning dict_learning_online fastica
sparse_encode
""".split()


def pytest_configure():
    for name in NAMES:
        setattr(sklearn.decomposition, name, getattr(gpuica, name))


def pytest_collection_finish(session):
    for item in session.items:
        ours = [name for name in NAMES if getattr(item.module, name, None) is getattr(gpuica, name)]
        assert ours, "the tests would run against scikit-learn"

"""Run scikit-learn's own test files against gpuica: `python -m tests.run_sklearn [pytest arguments]`.

float32 tests are switched on, and every test runs for several random seeds; both are scikit-learn's own switches.
"""

import os
import sys

import pytest

FILES = ["sklearn.decomposition.tests.test_fastica", "sklearn.decomposition.tests.test_dict_learning"]

# our own pytest settings (warnings as errors) are not scikit-learn's
OPTIONS = ["-q", "-c", os.devnull, "-p", "tests.sklearn_plugin", "-p", "no:cacheprovider", "--pyargs"]

if __name__ == "__main__":
    os.environ.setdefault("SKLEARN_RUN_FLOAT32_TESTS", "1")
    os.environ.setdefault("SKLEARN_TESTS_GLOBAL_RANDOM_SEED", "0-9")
    sys.exit(pytest.main([*OPTIONS, *FILES, *sys.argv[1:]]))

"""`-p tests.failures_plugin --failures-to FILE`: append the report of each failure to a file at once.

A run that is stopped, or whose process a driver takes with it, leaves what failed until then.
"""


def pytest_addoption(parser):
    parser.addoption("--failures-to", default=None)


def pytest_configure(config):
    path = config.getoption("--failures-to")
    if path and not hasattr(config, "workerinput"):  # with pytest-xdist only the process that all reports come to
        config.pluginmanager.register(Writer(path))


class Writer:
    """Appends to a file."""

    def __init__(self, path):
        self.path = path

    def pytest_runtest_logreport(self, report):
        if report.failed:
            with open(self.path, "a") as file:
                file.write(f"{'=' * 20} {report.nodeid} ({report.when})\n{report.longreprtext}\n\n")

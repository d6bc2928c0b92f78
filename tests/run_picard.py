"""Run python-picard's own test files against gpuica: `python -m tests.run_picard [pytest arguments]`.

They are not part of its wheel: pip fetches the source package of the installed version once, into build/.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

FILES = ["test_solver.py", "test_sklearn.py"]

# our own pytest settings (warnings as errors) are not python-picard's
OPTIONS = ["-q", "-c", os.devnull, "-p", "tests.picard_plugin", "-p", "no:cacheprovider", "--import-mode=importlib"]


def test_files():
    """The paths of python-picard's test files, fetched if they are not here; LookupError if they cannot be."""
    try:
        release = version("python-picard")
    except PackageNotFoundError as error:
        raise LookupError("python-picard is not installed: pip install 'gpuica[bench]'") from error
    folder = Path(__file__).parents[1] / "build" / f"python-picard-{release}"
    paths = [folder / name for name in FILES]
    if not all(path.exists() for path in paths):
        fetch(release, folder)
    return paths


def fetch(release, folder):
    """Write the test files of a release of python-picard to a folder."""
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
        command = [*pip, "--no-binary", ":all:", "-d", place, f"python-picard=={release}"]
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if subprocess.run(command, env=clean).returncode:
            raise LookupError(f"pip could not fetch the source of python-picard {release}")
        [archive] = Path(place).glob("*.tar.gz")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as files:
            for name in FILES:
                [member] = [m for m in files.getmembers() if m.name.endswith(f"/picard/tests/{name}")]
                (folder / name).write_bytes(files.extractfile(member).read())


if __name__ == "__main__":
    try:
        found = test_files()
    except LookupError as reason:
        sys.exit(f"python-picard's tests do not run: {reason}.")
    sys.exit(pytest.main([*OPTIONS, *map(str, found), *sys.argv[1:]]))

"""Files that get their names when they are complete.

Until then the name ends in .partial, which no pattern for files of the kind matches.  Writers remove partial files
after an error or interrupt; a killed process leaves them.
"""

import os
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def write_atomically(path, mode="wb"):
    """A file to write to, which is renamed to `path` at the end of the `with` block, once its content is on the disk.

    After an error, a file that had this name before is unchanged.
    """
    partial = partial_of(Path(path))
    with open(partial, mode) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def partial_of(path):
    """The path of a file before it is complete."""
    return path.with_name(path.name + PARTIAL)


def open_partial(path):
    """The partial file of a path, open for writing; OSError in one sentence that names the path."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name a file.")
    try:
        return open(partial_of(path), "wb")
    except OSError as error:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path} cannot be written: there is no directory {path.parent}.") from None
        raise OSError(error.errno, f"{path} cannot be written ({error.strerror}): name another directory") from error


def rename_complete(paths):
    """Rename complete partial files to their paths, the first one last."""
    for path in reversed(paths):
        try:
            os.replace(partial_of(path), path)
        except OSError as error:
            raise not_written(path, error) from error


def make_directory(path):
    """The directory, created if it does not exist; OSError in one sentence."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"{path} cannot be a directory: it, or a part of its path, is a file.") from None
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be made ({error.strerror}): name another directory") from error
    return Path(path)


def remove_partial(directory, pattern):
    """Remove partial files of this pattern, which a killed process left."""
    for path in directory.glob(pattern + PARTIAL):
        path.unlink(missing_ok=True)


def not_written(path, error):
    """The OSError for a file that could not be written completely."""
    return OSError(error.errno, f"{path} could not be written ({error.strerror}); what was written is removed")

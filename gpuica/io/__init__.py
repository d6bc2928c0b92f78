"""Sources of rows in files, tables and iterables; writers; digests and checkpoints."""

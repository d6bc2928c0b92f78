"""What all benchmarks share: the command line, timing, fresh processes, tables, and the description of the machine."""

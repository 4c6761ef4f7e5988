"""Prefect and I/O: one step of the path a file. A task reads its inputs, calls the core, writes, returns a small reference."""

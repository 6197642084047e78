"""Drivers: loops that own time, commit order and parallelism around the pure engine."""

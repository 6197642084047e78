"""Measured numbers: `python -m benchmarks` prints one table, every row beside what it is compared with.

* Ratios count, not absolute times: both sides of a ratio are measured in the same run, taking turns in short samples.
* Single-threaded work is measured in CPU time of this process, and samples in which it was descheduled are left out.
  Wall clock is used only where several processes work together: ingest and latency.
* One thread: the thread pools of BLAS and OpenMP are switched off before numpy is loaded.
"""

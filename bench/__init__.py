"""forkd measured beside the kernel's limits and other servers; see docs/benchmarks.md."""

"""Speed, side by side with the peers. Run `python -m benchmarks --help` from the repository's root."""

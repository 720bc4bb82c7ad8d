"""Experiments with a record: jobs, the runner, the record itself."""

"""Batch jobs: what submits sweeps to SLURM will stand here."""

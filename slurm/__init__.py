"""Batch jobs: what a site is like, the shape of a job, its script, and handing it to SLURM."""

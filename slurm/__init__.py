"""The batch-job side: sites, scripts, submission, and a throw-away SLURM to try them on."""

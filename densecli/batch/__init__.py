"""Many inputs, unattended: one loaded model, a manifest of what is done, and runs that can be stopped and taken up."""

from densecli.batch.job import BatchJob
from densecli.batch.outcome import Outcome
from densecli.batch.run import run_batch

__all__ = ["BatchJob", "Outcome", "run_batch"]

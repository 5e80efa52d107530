"""Beauty: which of Amazon's beauty products a user reviews next. 22,363 users, 12,101 products."""

from .sequences import SequenceTask


TASK = SequenceTask(name="beauty", dataset="Beauty")

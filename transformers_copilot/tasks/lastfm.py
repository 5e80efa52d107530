"""LastFM: which artist a user listens to next. 1,090 users, 3,646 artists."""

from .sequences import SequenceTask


TASK = SequenceTask(name="lastfm", dataset="LastFM")

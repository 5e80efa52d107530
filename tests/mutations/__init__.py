"""Everything that is saved, changed and damaged in thousands of ways: nothing wrong is read in silence."""

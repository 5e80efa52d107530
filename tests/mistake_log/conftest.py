"""What a command of recording reads."""

import pytest

from tests.helpers.recordings import write_pilot_and_texts


@pytest.fixture
def folder(tmp_path):
    """A folder with a Pilot and data, of which 36 rows are trained on."""
    write_pilot_and_texts(tmp_path)
    return tmp_path

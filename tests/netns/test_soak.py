"""Random agents against the middlebox; 30 seconds here, for minutes with ./run soak."""

import os

import pytest

from soak import soak

MODES = ["firewall", "napt", "twice"]


@pytest.mark.san
@pytest.mark.parametrize("mode", MODES)
def test_a_short_soak(line, directory, cleanup, mode):
    soak(line(translated=mode != "firewall"), directory, cleanup, mode, 10)


@pytest.mark.soak
@pytest.mark.parametrize("mode", MODES)
def test_soak_of_the_middlebox(line, directory, cleanup, mode):
    minutes = float(os.environ.get("SLUICE_SOAK_MINUTES", "10"))
    soak(line(translated=mode != "firewall"), directory, cleanup, mode, minutes * 60 / 4)

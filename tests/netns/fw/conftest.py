import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
import fwlab  # noqa: E402


@pytest.fixture
def lab():
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    if not os.path.exists(fwlab.TOOL):
        pytest.skip(f"not built: {fwlab.TOOL}")
    x = fwlab.Lab()
    try:
        yield x
        x.check()
    finally:
        x.close()

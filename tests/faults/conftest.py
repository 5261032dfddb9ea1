"""What makes a case of the fault suite quick and its failures readable."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.faults.harness")


@pytest.fixture(scope="session", autouse=True)
def imported_objects_are_left_alone() -> Iterator[None]:
    """Every case looks for dead actors; the objects of the imported modules are none."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()

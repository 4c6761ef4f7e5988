"""Limits of the checks that make no sense fail when the configuration is built."""

import pytest
from pydantic import ValidationError

from contracts.sections.validation import ValidationConfig


@pytest.mark.parametrize("earliest", ["yesterday", "1995-13-01", "01.01.1995"])
def test_the_earliest_date_is_a_date(earliest: str):
    with pytest.raises(ValidationError, match="expected an ISO date such as 1995-01-01, found"):
        ValidationConfig(earliest=earliest)

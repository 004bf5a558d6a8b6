"""Cron expressions as Kubeflow takes them."""

import pytest

from matta_core.errors import UserError
from pipelines.kubeflow.cron import six_fields


@pytest.mark.parametrize(
    ("given", "kubeflows"),
    [
        ("0 3 * * *", "0 0 3 * * *"),
        ("*/15 * * * MON-FRI", "0 */15 * * * MON-FRI"),
        ("5,35 0-6/2 1 jan,JUL ?", "0 5,35 0-6/2 1 jan,JUL ?"),
        ("30 0 3 * * 0", "30 0 3 * * 0"),
        ("0 0 31 2 1", "0 0 0 31 2 1"),  # either the 31st or a Monday
        ("0 0 29 2 *", "0 0 0 29 2 *"),
        ("10/20 * * * *", "0 10/20 * * * *"),
        ("*/59 0-6/6 */30 */11 */6", "0 */59 0-6/6 */30 */11 */6"),
    ],
)
def test_five_fields_get_a_second_and_six_are_left(given, kubeflows):
    assert six_fields(given) == kubeflows


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "must have five fields"),
        ("@daily", "must have five fields"),
        ("* * * *", "must have five fields"),
        ("* * * * * * *", "must have five fields"),
        ("60 * * * *", "minute must be from 0 to 59, got '60'"),
        ("* 24 * * *", "hour must be from 0 to 23, got '24'"),
        ("* * 0 * *", "day of month must be from 1 to 31, got '0'"),
        ("* * * 13 *", "month must be from 1 to 12, got '13'"),
        ("* * * MON *", "month must be from 1 to 12, got 'MON'"),
        ("* * * * 7", "day of week must be from 0 to 6 (Sunday is 0), got '7'"),
        ("0 0 L * *", "day of month must be from 1 to 31, got 'L'"),
        ("-5 * * * *", "'-5' is no minute"),
        ("1,,2 * * * *", "'' is no minute"),
        ("*/0 * * * *", "'*/0' allows no minute"),
        ("0 18-6 * * *", "'18-6' allows no hour"),
        ("*/90 * * * *", "'*/90' steps beyond the range, and would run at minute 0 only: write 0 if that is meant"),
        ("*/60 * * * *", "would run at minute 0 only"),
        ("0 */24 * * *", "would run at hour 0 only"),
        ("0 0 */31 * *", "would run at day of month 1 only"),
        ("50/10 * * * *", "'50/10' steps beyond the range, and would run at minute 50 only"),
        ("0 8-17/12 * * *", "would run at hour 8 only: write 8 if that is meant, else a step of at most 23"),
        ("0 5-5/2 * * *", "would run at hour 5 only"),
        ("*/999999999 * * * *", "would run at minute 0 only"),
        (f"*/{'9' * 5000} * * * *", "is no minute"),
        (f"{'9' * 5000} * * * *", "is no minute"),
        ("٣ * * * *", "'٣' is no minute"),
        ("0 0 31 2,4 *", "names a day that never comes: day of month 31 in 2,4"),
    ],
)
def test_what_kubeflow_would_refuse_or_never_run_is_refused(given, message):
    with pytest.raises(UserError) as error:
        six_fields(given)
    assert message in str(error.value)

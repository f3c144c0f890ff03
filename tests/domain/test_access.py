"""Scopes open what they say and nothing else."""

import pytest

from farthing.domain.access import EVERYBODY, Principal, Scope


def principal(*scopes, tenants=()):
    """A principal with these scopes."""
    return Principal("p", frozenset(scopes), frozenset(tenants))


@pytest.mark.parametrize("asked", list(Scope))
def test_an_admin_may_everything(asked):
    """So may everybody where no token is demanded."""
    assert principal(Scope.ADMIN).may(asked)
    assert EVERYBODY.may(asked)


@pytest.mark.parametrize(
    ("held", "opened"),
    [
        (Scope.INGEST, {Scope.INGEST}),
        (Scope.READ_TENANT, {Scope.READ_TENANT}),
        (Scope.READ_ALL, {Scope.READ_ALL, Scope.READ_TENANT}),
    ],
)
def test_every_other_scope_opens_itself_and_reading_all_a_tenants_reading(held, opened):
    """Delivering records reveals nothing, and reading changes nothing."""
    assert {asked for asked in Scope if principal(held).may(asked)} == opened


def test_a_tenants_token_sees_its_tenants_only():
    """A name that merely begins alike is another tenant."""
    one = principal(Scope.READ_TENANT, tenants=["acme"])
    assert one.sees("acme")
    assert not one.sees("acme2")
    assert not one.sees("")
    assert not one.sees_all


def test_tenants_named_by_a_token_that_may_not_read_open_nothing():
    """A probe's token tells no costs."""
    assert not principal(Scope.INGEST, tenants=["acme"]).sees("acme")


def test_reading_all_sees_every_tenant():
    """And rows of none."""
    assert principal(Scope.READ_ALL).sees("anyone")
    assert principal(Scope.READ_ALL).sees_all

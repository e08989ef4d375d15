"""Never two that work on one tenant."""

from tests.kits.backups import BACKUP, asked, served

from dotmac_operator.reconcile.turns import SOON, Turns


def test_one_at_a_time_for_each_instance() -> None:
    turns = Turns()
    with turns.take("tenants/acme") as mine:
        assert mine
        with turns.take("tenants/acme") as second, turns.take("tenants/beta") as other:
            assert (second, other) == (False, True)
        with turns.take("tenants/acme") as third:
            assert not third, "the second one had no turn to give back"
    with turns.take("tenants/acme") as again:
        assert again


def test_a_turn_is_given_back_after_a_failure() -> None:
    turns = Turns()
    try:
        with turns.take("tenants/acme"):
            raise RuntimeError
    except RuntimeError:
        pass
    with turns.take("tenants/acme") as mine:
        assert mine


def test_who_does_not_get_it_touches_nothing_and_comes_again() -> None:
    world = served()
    asked(world)
    before = (len(world.engine.mutations), len(world.cluster.writes))
    with world.backups._turns.take("tenants/acme"):
        assert world.run("Backup", BACKUP).after == SOON
        assert world.run("Instance", "tenants/acme").after == SOON
    assert (len(world.engine.mutations), len(world.cluster.writes)) == before

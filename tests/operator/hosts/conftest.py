from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.kits.canned_ssh import (
    HOST_ED,
    HOST_RSA,
    QUICK,
    USER_KEY,
    USER_TEXT,
    Canned,
    CannedEngine,
    CannedHost,
    Say,
    public_line,
)

from dotmac_operator.core.secret import SecretStr
from dotmac_operator.hosts.pool import SshHostPool, SshSettings
from dotmac_operator.hosts.port import HostAddress


@pytest.fixture
def canned() -> Iterator[Callable[..., Canned]]:
    """A factory: what `dial-stdio` says, and the pool's settings."""
    made: list[Canned] = []

    def make(say: Say | None = None, settings: SshSettings = QUICK, **pool: Any) -> Canned:
        server = CannedHost(say or CannedEngine(), host_keys=[HOST_ED, HOST_RSA], user_key=USER_KEY)
        address = HostAddress(
            name="demo/alpha",
            address="127.0.0.1",
            port=server.port,
            user="deployer",
            private_key=SecretStr(USER_TEXT),
            passphrase=None,
            host_keys=(public_line(HOST_ED),),
        )
        made.append(Canned(server, SshHostPool(settings, **pool), address))
        return made[-1]

    yield make
    for each in made:
        each.pool.close()
        each.server.close()

"""What is taken over from the earlier platform's database: its rows become Instances that the API takes."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.kits.postgres import Postgres, postgres

from dotmac_crds.instance import InstanceSpec
from dotmac_crds.kinds import KINDS
from dotmac_local.schema import Schema

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "migration" / "instances.sql"
# The columns that the script reads, of the types that the earlier platform had.
TABLES = """
CREATE TYPE sector AS ENUM ('PRIVATE', 'PUBLIC', 'NGO');
CREATE TYPE framework AS ENUM ('IFRS', 'IPSAS', 'BOTH');
CREATE TYPE instance_status AS ENUM
  ('provisioned', 'deploying', 'running', 'stopped', 'error', 'trial', 'suspended', 'archived');
CREATE TABLE servers (server_id uuid PRIMARY KEY, name text, hostname text);
CREATE TABLE instances (
  instance_id uuid PRIMARY KEY DEFAULT gen_random_uuid(), server_id uuid REFERENCES servers,
  org_code varchar(40) UNIQUE, org_name text, sector_type sector, framework framework,
  currency varchar(3) DEFAULT 'NGN', admin_email text, admin_username text,
  status instance_status, trial_expires_at timestamptz, archived_at timestamptz);
INSERT INTO instances (org_code, org_name, sector_type, framework, admin_email, admin_username, status,
    trial_expires_at, archived_at) VALUES
  ('ACME', 'Acme "Works" & Söhne', 'PRIVATE', 'IFRS', 'a@acme.example', 'ada', 'running', NULL, NULL),
  ('Big_Co', 'Big', 'NGO', 'BOTH', 'b@big.example', '', 'trial', '2199-01-02 03:04:05+01', NULL),
  ('late', 'Late', 'PUBLIC', 'IPSAS', 'l@late.example', NULL, 'suspended', '2020-01-01', NULL),
  ('gone', 'Gone', 'PUBLIC', 'IPSAS', 'g@gone.example', NULL, 'archived', NULL, '2024-01-01');
"""

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as made:
        yield made


def exported(server: Postgres, database: str, tables: str) -> list[dict[str, Any]]:
    url = server.create(database)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(tables.encode())
    argv = ["psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-v", "release=erp-1", "-v", "class=starter"]
    done = subprocess.run([*argv, "-f", str(SCRIPT), url], capture_output=True, text=True, check=True, timeout=60)
    return list(json.loads(done.stdout)["items"])


def test_every_row_that_is_not_archived_becomes_an_instance_that_the_api_takes(server: Postgres) -> None:
    found = {obj["metadata"]["name"]: obj for obj in exported(server, "earlier", TABLES)}
    assert sorted(found) == ["acme", "big-co", "late"]
    schema = Schema(next(kind for kind in KINDS if kind.name == "Instance").crd()["spec"]["versions"][0]["schema"][
        "openAPIV3Schema"
    ])  # fmt: skip
    for obj in found.values():
        assert obj["metadata"]["annotations"]["platform.dotmac.io/paused"] == "true"
        InstanceSpec.model_validate(obj["spec"])
        schema.default(obj)
        assert schema.validate(obj, None) == []
    assert found["acme"]["spec"]["orgName"] == 'Acme "Works" & Söhne'
    assert found["acme"]["spec"]["admin"]["username"] == "ada"
    assert found["big-co"]["spec"]["trial"] == {"expiresAt": "2199-01-02T02:04:05Z"}
    assert found["big-co"]["spec"]["settings"]["accountingFramework"] == "BOTH"
    assert "trial" not in found["late"]["spec"]


def test_a_database_without_instances_gives_an_empty_list(server: Postgres) -> None:
    assert exported(server, "empty", TABLES.partition("INSERT")[0]) == []

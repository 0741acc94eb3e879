"""
An API server's requests, sent by etcd's own Go client (go/client/shapes.go), to a tenant and to a real etcd: the second shows that the
checks are right. If one fails, an API server on Stokehold loses what the check's name says.
"""

import pathlib
import re

import pytest

from conftest import client

SOURCE = pathlib.Path(__file__).parent / "go" / "client" / "shapes.go"
SHAPES = re.findall(r'^\t\{"([a-z-]+)", ', SOURCE.read_text(), re.M)


@pytest.fixture(scope="module")
def endpoint(shared):
    return shared.tenant("kubernetes")


@pytest.mark.parametrize("shape", SHAPES)
def test_on_a_tenant(endpoint, shape):
    """What an API server sends must do what etcd's documentation says."""
    r = client("shapes", endpoint, shape)
    assert r.returncode == 0, r.stderr


@pytest.mark.parametrize("shape", SHAPES)
def test_on_etcd(etcd, shape):
    """A check that fails here is wrong itself."""
    r = client("shapes", etcd, shape)
    assert r.returncode == 0, r.stderr

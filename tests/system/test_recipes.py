"""
What comes with etcd's Go client: locks, elections, transactional memory, queues, and the wrappers of its services (go/recipes), with
several contenders each. Controllers and databases build on these; if one fails, two of them act as the leader.
"""

import re
import subprocess

import pytest

from conftest import TREE, program

RECIPES = re.findall(r'^\t\{"([a-z-]+)"', (TREE / "tests/system/go/recipes/main.go").read_text(), re.M)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(shared, name):
    """Each keeps its promise to all contenders at once."""
    r = subprocess.run([program("recipes"), shared.tenant(f"recipe-{name}"), name], capture_output=True, text=True, timeout=90, check=False)
    assert r.returncode == 0, r.stderr[-3000:]

"""What deploy/generate.py makes is up to date."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from typing import Any

import yaml

from tests.deploy.conftest import DEPLOY, ROOT

_HINT = "run: python deploy/generate.py"


def generate() -> Any:
    spec = importlib.util.spec_from_file_location("generate", DEPLOY / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_rules_for_kubernetes_are_those_of_prometheus():
    module = generate()
    assert module.PROMETHEUS_RULE.read_text() == module.prometheus_rule(), _HINT


def test_the_table_of_settings_is_what_the_command_takes():
    page = (ROOT / "docs" / "operations.md").read_text()
    assert page == generate().with_table(page), _HINT
    said = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    flags = set(re.findall(r"^  (--[a-z0-9-]+)", said, re.MULTILINE)) - {"--config"}
    assert set(re.findall(r"^\| `(--[a-z0-9-]+)`", page, re.MULTILINE)) == flags


def test_every_setting_that_deploy_uses_exists():
    text = "".join(path.read_text() for path in DEPLOY.rglob("*.yaml"))
    known = generate().Settings.__dataclass_fields__
    used = set(re.findall(r"\bCONVSERVE_([A-Z_]+)\b", text)) - {
        "PUBLISHED_GRPC_PORT",  # compose.yaml's own
        "PUBLISHED_HTTP_PORT",
        "REPOSITORY",
    }
    assert {name.lower() for name in used} <= set(known)


def test_every_file_of_yaml_can_be_read():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!reset", lambda loader, node: None)
    for path in [*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")]:
        assert list(yaml.load_all(path.read_text(), Loader)), path

"""Write generated files: ``python deploy/generate.py`` from the repository's root.

- deploy/kubernetes/overlays/monitoring/prometheusrule.yaml, from deploy/prometheus/rules;
- the table of settings in docs/operations.md, from the settings that ``convserve serve --help`` shows.

tests/deploy/test_generated.py checks that they are up to date.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from service.settings import Settings  # noqa: E402 - found by the line above

RULES = ROOT / "deploy" / "prometheus" / "rules"
PROMETHEUS_RULE = ROOT / "deploy" / "kubernetes" / "overlays" / "monitoring" / "prometheusrule.yaml"
OPERATIONS = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- settings: made by deploy/generate.py -->\n", "<!-- /settings -->\n"


def prometheus_rule() -> str:
    """Return the rules as a resource of the Prometheus operator."""
    groups = [group for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "convserve", "labels": {"release": "kube-prometheus-stack"}},
        "spec": {"groups": groups},
    }
    text: str = yaml.safe_dump(resource, sort_keys=False, width=120, allow_unicode=True)
    return f"# Made of deploy/prometheus/rules by deploy/generate.py; edit those.\n{text}"


def settings_table() -> str:
    """Return a table of every setting."""
    hints = get_type_hints(Settings)
    separator = "`, `"
    lines = ["| flag | default | what |", "|---|---|---|"]
    for setting in dataclasses.fields(Settings):
        flag = "--" + setting.name.replace("_", "-")
        choices = f"; one of `{separator.join(get_args(hints[setting.name]))}`" if get_args(hints[setting.name]) else ""
        star = " \\*" if setting.metadata["per_model"] else ""
        default = "" if setting.default == "" else f"`{setting.default}`"
        text = setting.metadata["help"].replace("|", "\\|").replace("*", "\\*")
        lines.append(f"| `{flag}`{star} | {default} | {text}{choices} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return the page with its table renewed."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{settings_table()}{END}{after}"


def main() -> None:
    """Write both."""
    PROMETHEUS_RULE.write_text(prometheus_rule())
    OPERATIONS.write_text(with_table(OPERATIONS.read_text()))


if __name__ == "__main__":
    main()

"""What is in the image: the server, its models and what these import, said in an SBOM, and nothing else."""

from __future__ import annotations

import json

import pytest

from tests.image.conftest import Engine

pytestmark = pytest.mark.image

LARGEST_BYTES = 400_000_000


def inspect(engine: Engine, template: str) -> str:
    return engine("image", "inspect", engine.tag, "--format", template)


def test_small(engine: Engine) -> None:
    size = int(inspect(engine, "{{.Size}}"))
    print(f"{size / 1e6:.1f} MB")
    assert size <= LARGEST_BYTES


def test_holds_nothing_that_serving_does_not_need(engine: Engine) -> None:
    program = """
import importlib.util, os, shutil, sys
wrong = [tool for tool in ("cc", "gcc", "g++", "clang", "make", "cargo") if shutil.which(tool)]
unwanted = "torch onnx huggingface_hub tritonclient pytest pip setuptools export tests bench"
wrong += [name for name in unwanted.split() if importlib.util.find_spec(name)]
names = {".git", "tests", "shared", "pip-cache", "conftest.py", "data"}
for top in ("/opt", "/models", "/root", "/home", "/tmp", "/work"):
    for folder, folders, files in os.walk(top):
        wrong += [os.path.join(folder, name) for name in {*folders, *files} & names]
wrong += [path for path in ("/root/.cache", "/tmp/.cache", "/build", "/staging", "/opt/tools") if os.path.exists(path)]
print(wrong)
"""
    assert engine.python(program, "--user=0") == "[]"


def test_holds_no_secret(engine: Engine) -> None:
    """No private key or token in any file that the build may have written, nor what is named like one."""
    program = r"""
import os, pathlib, re
secret = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=]{16}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b"
    rb"|https?://[\w.-]+:[\w.-]{8,}@"
)
holder = re.compile(r".*\.(key|p12|pfx|jks|env)|id_(rsa|ecdsa|ed25519)|\.(netrc|pypirc|npmrc)|pip\.conf|credentials")
wrong, seen = [], 0
of_the_base = {"bin", "lib", "lib64", "sbin", "usr"}
for top in {*os.listdir("/")} - {"proc", "sys", "dev"} - of_the_base:
    for folder, _, files in os.walk("/" + top):
        for path in (pathlib.Path(folder, name) for name in files):
            if path.is_file() and not path.is_symlink():
                seen += 1
                if holder.fullmatch(path.name) or secret.search(path.read_bytes()):
                    wrong.append(str(path))
assert seen > 1000, seen
print(wrong + [name for name in os.environ if re.search("TOKEN|SECRET|PASSWORD|(API|ACCESS|PRIVATE)_KEY", name)])
"""
    assert engine.python(program, "--user=0") == "[]"


def test_says_what_it_is_made_of(engine: Engine) -> None:
    """The SBOM, validated by the build, lists each installed package with its version, and no other."""
    program = """
import importlib.metadata, json, sys
bill = json.load(open(sys.argv[1]))
assert bill["bomFormat"] == "CycloneDX", bill["bomFormat"]
listed = {(part["name"], part["version"]) for part in bill["components"]}
there = {(one.name, one.version) for one in importlib.metadata.distributions()}
assert listed == there, listed ^ there
print(*sorted(name for name, _ in listed))
"""
    path = json.loads(inspect(engine, "{{json .Config.Labels}}"))["dev.convserve.sbom"]
    listed = engine.python(program.replace("sys.argv[1]", repr(path)))
    assert {"convserve", "grpcio", "numpy", "pillow", "tokenizers"} <= set(listed.split())


def test_holds_every_package_that_its_packages_ask_for(engine: Engine) -> None:
    """But for one, which requirements/overrides.txt leaves out on purpose."""
    program = """
import importlib.metadata as metadata
from packaging.requirements import Requirement
missing = set()
for one in metadata.distributions():
    for requirement in map(Requirement, one.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                missing.add(requirement.name)
            else:
                assert requirement.specifier.contains(version), (one.name, str(requirement), version)
print(*missing)
"""
    assert engine.python(program) == "huggingface-hub"

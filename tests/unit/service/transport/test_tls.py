"""Certificates that change, followed at each handshake."""

from __future__ import annotations

import datetime
import os
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from service.errors import SettingsError
from service.transport.tls import TlsFiles, _Follower, server_credentials


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    authority.issue_cert("other").private_key_pem.write_to_path(folder / "other.pem")
    (folder / "secret.pem").write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIFHDBOBgkqhkiG9w0BBQ0w\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    return TlsFiles(folder / "certificate.pem", folder / "key.pem", folder / "ca.pem")


def test_a_change_that_could_not_be_read_is_taken_at_the_next_handshake(
    pair: TlsFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = pair
    follower = _Follower(files, files.stamp())
    assert follower() is None
    os.utime(files.key, ns=(1, 1))

    def fail(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as unreadable:
        unreadable.setattr(Path, "read_bytes", fail)
        for _ in range(3):
            assert follower() is None
    assert len(caplog.records) == 1, "not at every handshake"
    assert follower() is not None
    assert follower() is None


def test_files_that_belong_together_are_taken(pair: TlsFiles) -> None:
    assert server_credentials(pair) is not None


def test_a_short_key_that_grpc_takes_is_taken(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "certificate.pem", tmp_path / "key.pem", None)
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    files.certificate.write_bytes(certificate)
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    assert server_credentials(files) is not None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"key": "other.pem"}, "expected a certificate and its private key, which has no passphrase (KEY_VALUES_MIS"),
        ({"key": "secret.pem"}, "expected a certificate and its private key, which has no passphrase ("),
        ({"key": "certificate.pem"}, "expected a certificate and its private key, which has no passphrase ("),
        ({"certificate": "key.pem"}, "expected a certificate and its private key, which has no passphrase ("),
        ({"client_ca": "key.pem"}, "key.pem: expected certificates ("),
    ],
)
def test_files_that_are_of_no_use_are_named_at_the_start(pair: TlsFiles, changed: dict[str, str], said: str) -> None:
    files = replace(pair, **{flag: pair.key.parent / name for flag, name in changed.items()})
    with pytest.raises(SettingsError) as caught:
        server_credentials(files)
    assert str(caught.value).startswith(f"TLS: --tls-{'client-ca' if 'client_ca' in changed else 'certificate'} ")
    assert said in str(caught.value)


@pytest.mark.parametrize("setting", ["certificate", "key", "client_ca"])
def test_what_is_no_pem_is_named_with_its_flag(pair: TlsFiles, tmp_path: Path, setting: str) -> None:
    (tmp_path / "nonsense").touch()
    with pytest.raises(SettingsError) as caught:
        server_credentials(replace(pair, **{setting: tmp_path / "nonsense"}))
    assert str(caught.value) == f"TLS: --tls-{setting.replace('_', '-')} {tmp_path}/nonsense: it is not a PEM file"


def test_a_half_renewed_pair_is_not_taken_and_named_once(
    pair: TlsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    files = TlsFiles(tmp_path / "certificate.pem", tmp_path / "key.pem", None)
    for path in (files.certificate, files.key):
        path.write_bytes((pair.key.parent / path.name).read_bytes())
    follower = _Follower(files, files.stamp())
    files.key.write_bytes((pair.key.parent / "other.pem").read_bytes())
    os.utime(files.key, ns=(1, 1))
    assert follower() is None
    assert follower() is None
    (said,) = caplog.messages
    said, _, fault = said.partition(": ")
    assert f"`{said}`" in Path("docs/operations.md").read_text()
    assert fault.startswith("--tls-certificate ")
    files.key.write_bytes(pair.key.read_bytes())
    os.utime(files.key, ns=(2, 2))
    assert follower() is not None
    assert caplog.messages[1:] == ["TLS certificates reloaded"]

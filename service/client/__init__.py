"""A client in Python: what ``convserve classify`` calls, and what a program may import.

:class:`Client` blocks and may be shared by threads, :class:`AsyncClient` is for asyncio. Both speak to
ClassificationService: a picture or a sentence goes in, labels come out. For tensors take NVIDIA's ``tritonclient``.
:class:`Credentials` alone makes channels, for ``bench`` as well, so TLS and tokens are the same everywhere.
"""

from service.client.asynchronous import AsyncClient
from service.client.blocking import Client
from service.client.credentials import Credentials, CredentialsInvalid
from service.client.failure import CallFailed
from service.client.flags import credentials_of
from service.client.remedy import explained
from service.client.requests import CallOptions, Options
from service.client_flags import add_credential_flags

__all__ = [
    "AsyncClient",
    "CallFailed",
    "CallOptions",
    "Client",
    "Credentials",
    "CredentialsInvalid",
    "Options",
    "add_credential_flags",
    "credentials_of",
    "explained",
]

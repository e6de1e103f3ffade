"""Servers to compare with, each in a file of its own: how it is installed, tuned, started and called."""

from __future__ import annotations

from bench.peers.bare import Bare
from bench.peers.base import Peer
from bench.peers.bentoml import BentoML
from bench.peers.convserve import Convserve
from bench.peers.kserve import KServe
from bench.peers.litserve import LitServe
from bench.peers.mlserver import MLServer
from bench.peers.mosec import Mosec
from bench.peers.ray_serve import RayServe
from bench.peers.triton import Triton

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Bare("bare-1-thread", best=False),
        Bare("bare", best=True),
        Convserve("convserve", "native"),
        Convserve("convserve-1-instance", "native", ("--instances", "1", "--intra-op-threads", "1")),
        Convserve("convserve-grpcio", "grpcio"),
        Triton("triton", instances=2),
        Triton("triton-1-instance", instances=1),
        Mosec("mosec", batch=8, instances=2),
        Mosec("mosec-batch-16", batch=16, instances=2),
        Mosec("mosec-unbatched", batch=1, instances=1),
        KServe(),
        MLServer(),
        LitServe(),
        BentoML(),
        RayServe(),
    )
}

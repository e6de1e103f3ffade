"""The doors: the grpcio server, the native fast lane, HTTP. Only here, parts.py and client/ import gRPC."""

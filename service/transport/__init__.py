"""The doors: the grpcio server, the native fast lane, HTTP. Only here, server.py and client/ import gRPC."""

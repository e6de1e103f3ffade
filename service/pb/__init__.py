"""Generated protobuf and gRPC stubs, made by scripts/proto.sh; never edited."""

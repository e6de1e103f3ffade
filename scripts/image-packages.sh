#!/bin/sh
# Fills the image's virtual environment from lock files, and takes out what the server never imports: 100 MB. The images
# are built only if every model still reproduces its golden answers without it. Run by the Dockerfile.
#
# Usage: image-packages.sh LOCK…    in the image's build, where /opt/convserve is an environment without pip
set -eu

# --no-deps: the locks are complete, but for what requirements/overrides.txt leaves out on purpose.
for lock in "$@"; do
  pip --python /opt/convserve/bin/python install --no-deps --require-hashes --requirement "$lock"
done

cd /opt/convserve/lib/python3.*/site-packages
# NumPy's tests and its tools for building Fortran and C extensions; stubs for type checkers.
rm -rf numpy/f2py numpy/distutils numpy/conftest.py
find numpy -type d -name tests -prune -exec rm -r {} +
find . -name '*.pyi' -delete
# AVIF, which is not among the formats that the server accepts; Pillow does without when it is absent.
rm -rf PIL/_avif.* pillow.libs/libavif-*
# ONNX Runtime: what prepares models before they are served, and its library for programs in C, a copy of what the Python
# module has in itself.
rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools onnxruntime/capi/libonnxruntime.so.*

# Compiled now, as the root is read-only where it runs; by hash, so that no file's time matters.
python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/convserve/lib

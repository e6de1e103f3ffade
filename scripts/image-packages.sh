#!/bin/sh
# Fills the image's virtual environment from lock files and removes 100 MB that the server never imports. The image
# build then checks that every model still reproduces its golden vectors. Run by the Dockerfile.
#
# Usage: image-packages.sh LOCK…    during the image build, where /opt/convserve is an environment without pip
set -eu

# --no-deps: the locks are complete, except for what requirements/overrides.txt omits on purpose.
for lock in "$@"; do
  pip --python /opt/convserve/bin/python install --no-deps --require-hashes --requirement "$lock"
done

cd /opt/convserve/lib/python3.*/site-packages
# NumPy's tests and its build tools for Fortran and C extensions; stubs for type checkers.
rm -rf numpy/f2py numpy/distutils numpy/conftest.py
find numpy -type d -name tests -prune -exec rm -r {} +
find . -name '*.pyi' -delete
# AVIF: the server does not accept it, and Pillow works without it.
rm -rf PIL/_avif.* pillow.libs/libavif-*
# ONNX Runtime's tools for preparing models, and its C library, which the Python module already contains.
rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools onnxruntime/capi/libonnxruntime.so.*

# Compile now, as the root is read-only at run time. By hash, so that file times do not matter.
python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/convserve/lib

# Sourced. Makes an environment with one pinned tool, and again if the pin or the interpreter changed.

pinned_venv() { # FOLDER REQUIREMENT; the caller defines `die`
  local venv=$1 tools=$2
  if [[ "$(cat "$venv/pin" 2>/dev/null)" == "$tools" ]] && "$venv/bin/python" -c '' 2>/dev/null; then return; fi
  echo "${0##*/}: setting up $venv with $tools" >&2
  rm -rf "$venv"
  "${PYTHON:-python3}" -m venv "$venv" || die "cannot make a virtual environment (on Debian: apt install python3-venv)"
  echo '*' >"$venv/.gitignore"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: "$tools" \
    || die "cannot install $tools"
  echo "$tools" >"$venv/pin"
}

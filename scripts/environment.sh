# Sourced by the shell commands beside it: goes to the repository's root and
# makes .venv once. Usage: make_environment REQUIREMENTS_FILE...
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys, venv, ensurepip
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo 'error: no Python 3.11, 3.12 or 3.13 with venv was found: install one' \
    '(on Debian: apt install python3 python3-venv) or name it: PYTHON=...' >&2
  return 1
}

make_environment() {
  local stamp wanted python
  wanted=$(cat "$@" constraints.txt | cksum)
  stamp=.venv/installed-$(echo "$@" | tr ' /' '__')
  # It may be half made, or its Python gone: then it is made anew.
  if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    python=$(find_python)
    echo "making .venv with $($python --version)"
    "$python" -m venv --clear .venv
  elif [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return
  fi
  local arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  # The tested versions were tested on Python 3.11; others resolve their own.
  if .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'
  then
    arguments+=(-c constraints.txt)
  fi
  echo "installing $* (a minute or two the first time)"
  if ! .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    "${arguments[@]}"; then
    echo 'error: the installation failed. A package registry must be within' \
      'reach; after mending that, run this command again.' >&2
    return 1
  fi
  echo "$wanted" > "$stamp"
}

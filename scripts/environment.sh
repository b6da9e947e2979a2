# Sourced by the shell commands beside it: goes to the repository's root and
# makes an environment once. Usage: make_environment EXTRA,... (pyproject.toml)
#   ENVIRONMENT  the folder (default: .venv)
#   PYTHON       'newest' (default), 'oldest', or an interpreter; those of
#                Python 3.11 to 3.14 on the PATH and of pyenv are looked at
# Python 3.11 gets the oldest supported packages (constraints.txt), others the
# newest.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ENVIRONMENT=${ENVIRONMENT:-.venv}

# The first interpreter, in the order asked for, that runs and can make one.
find_python() {
  local order=(14 13 12 11) candidate minor
  case ${PYTHON:-newest} in
    newest) ;;
    oldest) order=(11 12 13 14) ;;
    *) order=() ;;
  esac
  for candidate in ${PYTHON:-} $(
    for minor in "${order[@]}"; do
      type -aP "python3.$minor"
      ls -d ~/.pyenv/versions/3."$minor".*/bin/python
    done 2> /dev/null
    [ ${#order[@]} = 0 ] || type -aP python3
  ); do
    if "$candidate" -c 'import sys, venv, ensurepip
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2> /dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo 'error: no Python 3.11 to 3.14 with venv was found: install one' \
    '(on Debian: apt install python3 python3-venv) or name it: PYTHON=...' >&2
  return 1
}

make_environment() {
  local stamp wanted python
  wanted=$(cat pyproject.toml constraints.txt | cksum)
  stamp=$ENVIRONMENT/installed-$1
  # It may be half made, or its Python gone: then it is made anew.
  if ! "$ENVIRONMENT/bin/python" -c 'import pip' 2> /dev/null; then
    python=$(find_python)
    echo "making $ENVIRONMENT with $("$python" --version)"
    "$python" -m venv --clear "$ENVIRONMENT"
  elif [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then
    return
  fi
  local arguments=(-e ".[$1]")
  if "$ENVIRONMENT/bin/python" -c \
    'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    arguments+=(-c constraints.txt)
  fi
  echo "installing nfnets[$1] (a minute or two the first time)"
  if ! "$ENVIRONMENT/bin/python" -m pip install --quiet \
    --disable-pip-version-check "${arguments[@]}"; then
    echo 'error: the installation failed. A package registry must be within' \
      'reach; after mending that, run this command again.' >&2
    return 1
  fi
  echo "$wanted" > "$stamp"
}

# Sourced by the other shell scripts: changes to the repository's root and
# defines make_environment EXTRA,... (extras of pyproject.toml), which creates a
# virtual environment, unless it is up to date. Variables:
#   ENVIRONMENT  its folder (default: .venv)
#   PYTHON       'newest' (default), 'oldest', or an interpreter; the first two
#                choose among Python 3.11 to 3.14 on the PATH and in pyenv
# Python 3.11 gets the package versions of constraints.txt, others the newest.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ENVIRONMENT=${ENVIRONMENT:-.venv}

# Prints the first interpreter, in the requested order, that runs and has venv.
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
  echo 'error: no Python 3.11 to 3.14 with venv found: install one (on' \
    'Debian: apt install python3 python3-venv), or set PYTHON=/path/to/it' >&2
  return 1
}

make_environment() {
  local stamp wanted python
  wanted=$(cat pyproject.toml constraints.txt | cksum)
  stamp=$ENVIRONMENT/installed-$1
  # An incomplete environment, or one whose Python is gone, is recreated.
  if ! "$ENVIRONMENT/bin/python" -c 'import pip' 2> /dev/null; then
    python=$(find_python)
    echo "creating $ENVIRONMENT with $("$python" --version)"
    "$python" -m venv --clear "$ENVIRONMENT"
  elif [ "$(cat "$stamp" 2> /dev/null)" = "$wanted" ]; then
    return
  fi
  local arguments=(-e ".[$1]")
  if "$ENVIRONMENT/bin/python" -c \
    'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    arguments+=(-c constraints.txt)
  fi
  echo "installing nfnets[$1] (takes a few minutes the first time)"
  if ! "$ENVIRONMENT/bin/python" -m pip install --quiet \
    --disable-pip-version-check "${arguments[@]}"; then
    echo 'error: the installation failed (see above); it needs a reachable' \
      'package registry. Fix that, then run this command again.' >&2
    return 1
  fi
  echo "$wanted" > "$stamp"
}

# Sourced by the other scripts: sets $python to the virtual environment's interpreter, or to the active one.
python=${VENV:-.venv}/bin/python
[ -x "$python" ] || python=python3

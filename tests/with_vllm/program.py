"""python program.py SCRIPT ARGUMENTS: a program of the project, with the packages of the tests' environment last."""

import runpy
import sys

import borrowed_packages  # noqa: F401 # before others

del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")

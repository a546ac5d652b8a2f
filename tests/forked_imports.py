"""What the process is to have imported off which tests.forked forks: all of ours, and what ours imports late."""

import importlib
import pkgutil

import pipelines
import prefine.cli.main  # noqa: F401 - first of ours: it sets up logging before Beam is imported
import transforms

for _name in ("matplotlib.figure", "matplotlib.backends.backend_svg", "scipy.sparse.csgraph", "scipy.stats"):
    importlib.import_module(_name)
for _package in (transforms, pipelines):
    for _module in pkgutil.walk_packages(_package.__path__, f"{_package.__name__}."):
        importlib.import_module(_module.name)

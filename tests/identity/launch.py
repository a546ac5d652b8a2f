"""`prefine` of one checkout and of no other: `python -P launch.py CHECKOUT MODULE WORD...`.

An environment may hold an editable install of yet another checkout. So after the command every loaded module must come
from CHECKOUT or from the environment's libraries, else exit code 97 says that the run proves nothing.
"""

from __future__ import annotations

import runpy
import sys
import sysconfig
from pathlib import Path

FOREIGN = 97


def foreign_modules(checkout: Path) -> list[str]:
    """Loaded modules of neither the checkout nor the libraries; an entry too where none is the checkout's."""
    libraries = {Path(path).resolve() for path in (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())}
    ours, foreign = 0, []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "__main__" or not file or not Path(file).is_file():  # torch names files that are none
            continue
        path = Path(file).resolve()
        if any(path.is_relative_to(library) for library in libraries):
            continue
        if path.is_relative_to(checkout):
            ours += 1
        else:
            foreign.append(f"{name} from {path}")
    return foreign or ([] if ours else [f"no module from {checkout}"])


def main() -> None:
    """Run the module as `python -m` would, then look where its code came from."""
    checkout, module, *words = sys.argv[1:]
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        foreign = foreign_modules(Path(checkout).resolve())
        if foreign:
            print("code from elsewhere: " + "; ".join(foreign), file=sys.stderr)
            raise SystemExit(FOREIGN)


if __name__ == "__main__":
    main()

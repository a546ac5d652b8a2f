"""No DAG, only the import error of this file: what is wrong with recipes that the other files have built no DAGs for.

Airflow retires every DAG of a file with an import error, so a wrong recipe is reported here, where no DAG is.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # Airflow does so for bundles, not for every way to load a DAG

from prefine_airflow.dags import errors
from prefine_airflow.fields import SettingsError

if _errors := errors():
    raise SettingsError("\n".join(_errors))

"""Settings for the tests: a scratch Airflow home, and the imports that Airflow has."""

import os
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parent.parent

# Before Airflow is imported for the first time, which reads them once.
if "AIRFLOW_HOME" not in os.environ:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(PROJECT / "dags")
os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(PROJECT / "plugins")

for folder in (PROJECT / "plugins", PROJECT / "dags", PROJECT):
    sys.path.insert(0, str(folder))

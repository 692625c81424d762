"""What DAGs of a Preview get: Airflow finds this by the entry point `airflow.policy`, after the project's own policy.

A DAG may say that it starts unpaused, which is meant for the Deployment that it will be part of. A Preview is there
to be looked at: whoever wants a schedule of it to run unpauses the DAG there, and that holds from then on, because
Airflow asks for `is_paused_upon_creation` only when it sees a DAG for the first time.
"""

from __future__ import annotations

import os
from typing import Any

from airflow.policies import hookimpl


@hookimpl(trylast=True)
def dag_policy(dag: Any) -> None:
    if os.environ.get("UPDRAFT_PREVIEW"):
        dag.is_paused_upon_creation = True

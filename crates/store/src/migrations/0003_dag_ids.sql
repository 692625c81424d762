-- The ids of the DAGs that an agent's Airflow has. Apart from its report, which
-- comes and is read far more often.
CREATE TABLE agent_dag_ids (
    agent_id TEXT PRIMARY KEY REFERENCES agent (id) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    bundles TEXT NOT NULL
);

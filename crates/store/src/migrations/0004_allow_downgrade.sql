-- Whether Airflow's database may lose what an older Airflow does not know; 0 or 1.
ALTER TABLE deploy ADD COLUMN allow_downgrade BIGINT NOT NULL DEFAULT 0;

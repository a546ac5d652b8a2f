"""What the DAG files share: settings, one operator per CLI call, the wait for labels, alerts. Imports Airflow only."""

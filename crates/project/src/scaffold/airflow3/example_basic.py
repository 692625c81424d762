"""A small ETL pipeline with classic operators.

Sample orders are read, added up per region, and the totals are printed. The
run says that the asset `order_totals` is new, which starts `example_advanced`
when that DAG is not paused. Nothing starts this DAG by itself: trigger it.
"""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, Asset

from include.orders import sample_orders, total_per_region

with DAG(
    dag_id="example_basic",
    description="Extract, transform, load: sample orders to totals per region",
    schedule=None,
    doc_md=__doc__,
    tags=["example"],
):
    extract = PythonOperator(
        task_id="extract",
        python_callable=sample_orders,
    )
    transform = PythonOperator(
        task_id="transform",
        python_callable=total_per_region,
        op_args=[extract.output],
    )
    load = BashOperator(
        task_id="load",
        # The macro comes from plugins/example_plugin.py.
        bash_command='echo "{{ macros.example_plugin.shout("totals") }}: $TOTALS"',
        env={"TOTALS": "{{ ti.xcom_pull('transform') | tojson }}"},
        append_env=True,
        outlets=[Asset("order_totals")],
    )

    extract >> transform >> load

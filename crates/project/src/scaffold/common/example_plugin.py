"""A plugin that adds a macro: `{{ macros.example_plugin.shout("hi") }}` in any template."""

from airflow.plugins_manager import AirflowPlugin


def shout(text: str) -> str:
    """Returns the text in capital letters."""
    return text.upper()


class ExamplePlugin(AirflowPlugin):
    name = "example_plugin"
    macros = [shout]

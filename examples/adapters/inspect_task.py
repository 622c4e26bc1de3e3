"""An Inspect task whose commands run in a sandbox: `pip install . inspect_ai`.

`inspect eval examples/adapters/inspect_task.py --model …`; the sandbox is found by its name.
"""

from __future__ import annotations

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import bash


@task
def count_lines() -> Task:
    """One sample: a file in its sandbox, and a question that the shell answers."""
    sample = Sample(
        input="How many lines has the file `numbers`? Answer with the number alone.",
        target="3",
        files={"numbers": "one\ntwo\nthree\n"},
    )
    return Task(
        dataset=[sample],
        solver=[use_tools(bash(timeout=60)), generate()],
        scorer=includes(),
        sandbox="openbrain",
    )

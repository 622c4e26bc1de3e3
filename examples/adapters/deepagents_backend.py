"""A deep agent whose files and commands are those of a sandbox: `pip install . deepagents`.

`python examples/adapters/deepagents_backend.py MODEL`, for example `anthropic:claude-…`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from deepagents import create_deep_agent

from openbrain import Sandbox
from openbrain.adapters.deepagents import sandbox_backend

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


def main(model: str | BaseChatModel) -> str:
    """Lets an agent write a program and run it, and returns its answer."""
    with Sandbox(timeout=600, network=False) as sandbox:
        agent = create_deep_agent(model, backend=sandbox_backend(sandbox))
        question = "Write the 20th prime number to /workspace/prime with a program, and tell it."
        state = agent.invoke({"messages": [{"role": "user", "content": question}]})
        print("prime:", sandbox.exec("cat prime").stdout.strip())
        return str(state["messages"][-1].content)


if __name__ == "__main__":
    print(main(sys.argv[1]))

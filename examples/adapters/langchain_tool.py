"""A LangChain agent with a shell in a sandbox: `pip install . langchain`.

`python examples/adapters/langchain_tool.py MODEL`, for example `openai:gpt-…`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from langchain.agents import create_agent

from openbrain import Sandbox
from openbrain.adapters.langchain import shell_tool

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel


def main(model: str | BaseChatModel) -> str:
    """Asks an agent what the shell can tell, and returns its answer."""
    with Sandbox(timeout=600, network=False) as sandbox:
        agent = create_agent(model, [shell_tool(sandbox)])
        question = {"role": "user", "content": "Which Python is installed? Look."}
        state = agent.invoke({"messages": [question]})
        return str(state["messages"][-1].content)


if __name__ == "__main__":
    print(main(sys.argv[1]))

"""An agent of the OpenAI Agents SDK with a shell in a sandbox: `pip install . openai-agents`.

`python examples/adapters/openai_shell.py MODEL`, with a model that knows the shell tool.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from agents import Agent, Runner, ShellTool

from openbrain import Sandbox
from openbrain.adapters.openai_agents import shell_executor

if TYPE_CHECKING:
    from agents import Model


async def main(model: str | Model) -> str:
    """Asks an agent what the shell can tell, and returns its answer."""
    async with Sandbox(timeout=600, network=False) as sandbox:
        shell = ShellTool(executor=shell_executor(sandbox))
        agent = Agent(name="guide", model=model, tools=[shell])
        result = await Runner.run(agent, "Which Python is installed? Look.")
        return str(result.final_output)


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1])))

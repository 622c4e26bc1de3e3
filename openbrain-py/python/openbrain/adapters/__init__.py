"""openbrain in the words of other libraries, each of them one module that needs its package.

| module | package | what it is there |
|---|---|---|
| `inspect_ai` | `inspect_ai` | a sandbox environment: `sandbox="openbrain"` |
| `deepagents` | `deepagents` | a backend with files and `execute` |
| `openai_agents` | `openai-agents` | the executor of a `ShellTool` |
| `langchain` | `langchain-core` | a tool |

Each works on a `Sandbox`, so that nothing which a model asks for can run on the host. Inspect opens
one for each sample; for the others `with Sandbox(…)` says how long it lives and what it may do.
"""

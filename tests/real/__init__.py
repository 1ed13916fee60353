"""Headway in front of real model servers: commands for a machine that has some, not part of the suite.

    python -m tests.real.vllm [--rigs DIR]      two vLLM servers, the official clients, and what happens when one fails
    python -m tests.real.triton [--rigs DIR]    one Triton server and its official client
    python -m tests.real.predict [--rigs DIR]   two vLLM servers: predictions, and every policy on one replay

DIR holds scripts that start them (`vllm_cpu.sh start|stop PORT [flags]`, `triton.sh start|stop PORT`). With
`--urls URL...` servers that already run are used and nothing is done to them. What was seen: docs/real_servers.md.
"""

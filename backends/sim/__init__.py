"""The simulated model server: a GPU's timing and vLLM's scheduler and HTTP surface, without a GPU."""

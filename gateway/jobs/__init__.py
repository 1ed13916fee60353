"""Durable asynchronous work: files, batches, single jobs, and the stores that keep them."""

"""What several gateways share through a Redis. The library enters here and in the job store, nowhere else."""

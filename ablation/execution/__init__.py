"""Run a plan: the executor, worker processes, and their supervision.

Enter at `executor.Execution`, which sends segments of the plan to `workers.Workers`. These are
started by a `workers.Backend`: `workers.LocalProcesses` on this machine, or `ray_driver.RayNodes`
on a Ray cluster. `worker.serve` is what a worker process runs, `process.WorkerProcess` the process
seen from outside, and `ray_node.Relay` the actor that starts it on a node.
"""

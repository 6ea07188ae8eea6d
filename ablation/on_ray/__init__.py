"""Workers on an existing Ray cluster, in place of processes on this machine. Ray is imported by what runs a study there alone."""

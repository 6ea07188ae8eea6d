"""Workers on the nodes of a Ray cluster, against a store in front of the driver's."""

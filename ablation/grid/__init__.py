"""From YAML files to checked settings of every arm and baseline."""

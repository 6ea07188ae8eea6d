"""Workers on an existing Ray cluster. Ray is imported only by what runs a study there."""

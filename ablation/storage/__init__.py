"""A project's files: run folders, cache, locks, databases.

Enter at `project.ProjectPaths`, which knows where everything is. `runs.RunFolder` reads and writes
the files of a study's trials (`runs.Manifest`, `runs.TrialSpec`, `runs.Outcome`), and
`cache.DiskStore` is the cache of epochs. `files.replace` writes a file atomically.
`asked.SearchLog` holds which trials a search has asked for.
"""

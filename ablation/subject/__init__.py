"""The interface between the harness and training code, and how training code is loaded.

Enter at `protocol.Subject`, the interface: what the harness asks of anything that it ablates.
`loading.load_subject` finds a subject by its name, and `loading.FunctionSubject` makes one of a
plain training function. `imported.project_sources` finds the source that its results depend on.
"""

"""The report of a study: text, tables, figures, HTML, and the tables of the README."""

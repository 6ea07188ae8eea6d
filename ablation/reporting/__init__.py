"""The report of a study: text, tables, figures, HTML, and the tables of the README.

Enter at `report.write_report`. The text is a template in `templates/`, filled with the tables of
`tables.accuracy_table` and its neighbours. `figures.draw` draws the figures, those over epochs by
`curves.learning_curves` and its neighbours, in the style of `figure_style.style`.
`tables.refresh_file` renews the tables in a README.
"""

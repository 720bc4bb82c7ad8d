"""The report of a fit: one page that says whether to use it, from what the other rooms compute."""

"""Does AGSSP help when labels are few? Arms x label fractions x draws x seeds, on any data set.

A benchmark file (:mod:`settings`) names the data and the stages; :mod:`schedule` runs its tasks in
any number of processes, each task resumable; :mod:`results` makes a table and a plot of what is
finished.
"""

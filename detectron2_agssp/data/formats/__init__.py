"""Turns the published NEU-DET and Magnetic-Tile folders into checked COCO data sets.

``pipeline``  prepare_neu_det, prepare_magnetic_tile: source folder in, data set and report out
``voc``       NEU-DET: reads Pascal VOC boxes
``masks``     Magnetic-Tile: reads boxes off pixel masks
``records``   what both readers return, and how images are found, paired and inspected
``splits``    train, test and few-label draws: read, made and checked
``layout``    links or copies, atomic writes, removal of what an earlier run left
``report``    what was found on the way
``cli``       the command lines in ``datasets/``

Nothing is imported here: ``data.builtin`` reads the class names of ``classes`` at every import of
the package, and should not pay for the rest.
"""

"""Turns published folders of labelled images into checked COCO data sets.

``pipeline``     prepare_dataset: source folder in, data set and report out
``voc``          reads Pascal VOC boxes
``masks``        reads boxes off pixel masks
``records``      what both readers return, and how images are found, paired and inspected
``orientation``  boxes of photos that EXIF turns
``splits``       train, test and few-label draws: read, made and checked
``layout``       links or copies, removal of what an earlier run left
``report``       what was found on the way
``cli``          the command lines in ``datasets/``, which know each set's own layout

Nothing is imported here, so that the import of the package does not pay for it.
"""

"""Turns folders of labelled images into checked COCO.

``pairing``      which files are labels, and of which image
``records``      what all readers return, and how images are inspected and boxes checked
``coco``, ``yolo``, ``voc``, ``masks``, ``rle``, ``labelme``: the readers
``orientation``  boxes of photos that EXIF turns
``splits``       train, validation, test and few-label draws: read, made and checked
``report``       what was found on the way
``pipeline``     prepare_dataset: published folder in, data set and report out
``sets``         a published set, and the command line of its script in ``datasets/``
``layout``       links or copies, removal of what an earlier run left
``cli``          the arguments that these scripts have

``data.labels`` reads any of the formats by its name. Nothing is imported here, so that the import
of the package does not pay for it.
"""

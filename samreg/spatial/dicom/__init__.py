"""What DICOM files state, and the images they make; ``samreg.spatial.io_dicom`` is the door.

``header`` asks a file for what it states of each of its frames, ``places`` finds where these lie in space, ``planes``
gathers both, so that a frame of a file and a file of a series are the same thing. ``stacks`` sorts planes into stacks,
``arrangement`` checks that a stack is a regular volume, for which ``slice_axis`` says where its slices lie along their
normal. ``series`` lists a folder and chooses, ``pixels`` decodes, ``volume`` puts the image together, ``label_map``
that of several segments.

``source`` is the series that a new object refers to, whose patient and study it shares; ``registration``,
``segmentation`` and ``structures`` write such objects (``samreg.spatial.io_dicom_objects`` is the door), ``regions``
draws contours anew on other slices.
"""

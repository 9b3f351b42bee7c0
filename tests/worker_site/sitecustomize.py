"""In each Python process that has this folder on its PYTHONPATH: loads of encoders are appended to a file.

The file is named by BEAMCLIP_TEST_LOADS; a line is `process PID loaded NAME on DEVICE in S s`.
"""

import logging
import os

if _path := os.environ.get("BEAMCLIP_TEST_LOADS"):
    _logger = logging.getLogger("clip_transforms.engine.shared")
    _logger.setLevel(logging.INFO)
    _logger.addHandler(logging.FileHandler(_path, delay=True))

"""From drivers to the buffer. Pure stages; changing them never touches a driver.

Stages that change what a series means (calibration) change its declaration once; the rows then pass untouched.
"""

STAGES = {"calibrate": "gateway.pipeline.calibrate:calibrated"}

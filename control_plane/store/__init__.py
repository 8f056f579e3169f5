"""Three stores, so that no writer waits for another: journal, telemetry, business."""

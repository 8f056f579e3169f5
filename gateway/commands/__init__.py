"""What a person or the ERP asks this box to do to a device: once, within its time, and with a result that is true."""

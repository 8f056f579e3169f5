"""The device library on the command line: profiles, boards and recordings, for somebody who adds a device."""

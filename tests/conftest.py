"""What all tests share."""

import signal

# A shell that runs the tests in the background has SIGINT ignored, and so would every process that a test starts and
# interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

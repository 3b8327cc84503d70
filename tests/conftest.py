"""What all tests share."""

import signal

from hypothesis import settings

# A shell that runs the tests in the background has SIGINT ignored, and so would every process that a test starts and
# interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine makes no test fail.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")

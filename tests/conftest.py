"""What every test process needs before torch is imported: one thread, and the CPU unless asked otherwise."""

import os
import signal

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONHASHSEED": "0",
    "NNOPT_DEVICE": "cpu",
}.items():
    os.environ.setdefault(_name, _value)

# a shell that starts us in the background lets us ignore Ctrl-C, and every process of a test would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

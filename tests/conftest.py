"""What every test process needs before torch is imported: one thread, and the CPU unless asked otherwise."""

import os

for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONHASHSEED": "0",
    "NNOPT_DEVICE": "cpu",
}.items():
    os.environ.setdefault(_name, _value)

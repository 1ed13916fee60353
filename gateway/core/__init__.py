"""The ground floor: values and state machines. No I/O, no clock, no logging."""

"""The lab: fleets of simulated engines in virtual time, behind the gateway's own fleet table, predictor and policies.

`Scenario` says what is there and what is asked of it, `simulate` runs it once, `Run` holds what happened.
"""

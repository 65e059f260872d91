"""The control plane: takes jobs, decides who runs next, starts workers, and writes down what became of jobs.

plane        what the API calls                    leadership   which of several servers acts
lifecycle    a job's life, a pure function         schedule     who runs next, a pure function
projector    folds events into the store           reconciler   does what should be and is not
workers      starts them, speaks to them           fleet        what is known of them in memory
closing      what the control plane says itself    archive      what jobs said, beyond the streams
patience     waiting for a part that is away
"""

from neartime_server.control.plane import Control

__all__ = ["Control"]

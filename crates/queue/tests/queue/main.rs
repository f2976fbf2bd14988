//! The queue from outside: a real spool in a temporary directory, and a clock that stands until it is moved.

mod life;

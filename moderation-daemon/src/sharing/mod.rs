//! What hosts count together, pure: which windows, leases and scores a decision asks about
//! under which names, how it is put to the scripts and what they answer, what is owed to
//! them, and when they are to be left alone. It does no I/O, reads no clock and draws no
//! random numbers; where the counters are is the store's affair (`store/redis`).

mod act;
mod answer;
mod arrears;
mod breaker;
mod claim;
mod outcome;
mod tag;

#[cfg(test)]
mod tests;

pub use act::{Act, Deed};
pub use answer::{BadAnswer, GroupAnswer, Standing, Verdict, read_group, read_score};
pub use arrears::Arrears;
pub use breaker::{Breaker, Fault, State};
pub use claim::{Claim, Counted, Group, LeaseName, Ticket, Tickets, Window};
pub use outcome::{Failure, Health, Reserved, Settled};
pub use tag::{Names, Tag, Tags};

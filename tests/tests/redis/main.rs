//! Counters that hosts share, on a real redis-server: what its scripts count, what becomes
//! of decisions when it is slow, wrong or gone, and how a host comes back.

mod daemons;
mod doctor;
mod fault;
mod kill;
mod publish;
mod script;
mod table;
mod tls;

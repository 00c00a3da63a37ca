//! nginx asks before it passes a request on (`auth_request`), on a socket of its own:
//! what the request is, who sends it, and what is said to whoever is denied. It judges
//! nothing itself, and does not know how nginx is configured but by the headers that
//! its snippet sets.

mod auth;
mod denial;
pub mod generation;
pub mod log;
mod page;
pub mod route;
mod snippet;
pub mod token;

pub(crate) use auth::described;
pub use auth::routes;
pub(crate) use snippet::Snippet;

//! Sharing bans with other hosts: one task that empties the outbox into the shared
//! database, follows what others write there, and takes it to the moderator. Nobody waits
//! for it. If the database is slow, wrong or gone, it says so and tries again; what is to
//! be told waits in the store. Where hosts have a Redis, too, they tell each other by message
//! besides (`messages`).

mod compare;
#[cfg(feature = "redis")]
mod messages;
mod records;
mod settings;
mod ship;
mod status;
mod task;

#[cfg(feature = "redis")]
pub use messages::{Messages, say_and_hear};
pub use settings::{SecretError, ShareSettings, secrets};
pub use status::{MessagesView, RecordsView, ShareState, ShareStatus, ShareView};
pub use task::{Sharing, start};
